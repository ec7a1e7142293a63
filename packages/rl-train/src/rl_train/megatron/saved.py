"""Tensors that autograd saves as recipes: what is quickly computed again is not kept until the backward pass.

`recomputable` says how a tensor is computed; inside `saving_recipes`, autograd keeps that instead of the tensor. The
inputs of the computation must be kept anyway, by the function that gave the tensor.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

type Recipe = Callable[[], Tensor]

_recipes = WeakTensorKeyDictionary()


def recomputable(output: Tensor, recipe: Recipe) -> Tensor:
    """Remembers how `output` is computed, without gradient and without chance."""
    _recipes[output] = recipe
    return output


def recomputable_together(outputs: tuple[Tensor, ...], compute: Callable[[], tuple[Tensor, ...]]) -> None:
    """Remembers how several tensors come out of one computation, which then runs once for all of them."""
    waiting: dict[int, Tensor] = {}

    def recipe_of(number: int) -> Recipe:
        def recipe() -> Tensor:
            if number not in waiting:
                waiting.update(enumerate(compute()))
            return waiting.pop(number)

        return recipe

    for number, output in enumerate(outputs):
        recomputable(output, recipe_of(number))


@contextmanager
def saving_recipes(*tensors: Tensor) -> Generator[None]:
    """Whatever saves one of the tensors for its backward inside keeps its recipe instead, if it has one."""
    recipes: dict[int, tuple[int, Recipe]] = {}
    for tensor in tensors:
        if tensor in _recipes:
            recipe: Recipe = _recipes[tensor]  # pyright: ignore[reportUnknownVariableType] - torch leaves it untyped
            recipes[tensor.data_ptr()] = tensor.numel(), recipe

    def pack(saved: Tensor) -> tuple[Recipe, torch.Size] | Tensor:
        num_elements, recipe = recipes.get(saved.data_ptr(), (None, None))
        if recipe is None or num_elements != saved.numel() or not saved.is_contiguous():
            return saved
        return recipe, saved.shape

    def unpack(kept: tuple[Recipe, torch.Size] | Tensor) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        recipe, shape = kept
        with torch.no_grad():
            return recipe().view(shape)

    if not recipes or not torch.is_grad_enabled():
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
