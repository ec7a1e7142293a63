"""A second set of weights, of the reference policy, in host memory."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from rl_data.json import JsonValue
from rl_train.megatron.model import module_of, named_weights
from rl_train.megatron.weights import load_weights


class ReferenceWeights:
    """This rank's part of the reference policy."""

    def __init__(self, reference: Mapping[str, Tensor], model: torch.nn.Module) -> None:
        self._reference = reference
        self._model = model

    @classmethod
    def load(cls, model: torch.nn.Module, weights: Path, model_config: Mapping[str, JsonValue]) -> Self:
        """Reads the weights through the model, which gets its own back. Collective."""
        own = _copy_to_host(model)
        load_weights(module_of(model), weights, model_config)
        reference = _copy_to_host(model)
        _copy_into(model, own)
        return cls(reference, model)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """The model holds the reference's weights for the duration of the block, and then exactly its own."""
        own = _copy_to_host(self._model)
        _copy_into(self._model, self._reference)
        try:
            yield
        finally:
            _copy_into(self._model, own)


def _copy_to_host(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().to("cpu", copy=True) for name, weight in named_weights(model).items()}


@torch.no_grad()
def _copy_into(model: torch.nn.Module, source: Mapping[str, Tensor]) -> None:
    for name, weight in named_weights(model).items():
        weight.copy_(source[name])
