"""Element-wise and row-wise pieces of the model, each as plain torch and as one Triton kernel with its backward.

The plain versions say what is computed; the fused ones read and write device memory once. Importing this imports no
Triton: `choose_kernels` does, where it takes the fused versions.

T = tokens, G = key/value heads of this rank, R = query heads for each of them, D = head dimension, F = feed-forward
size of this rank, V = vocabulary entries of this rank.
"""

import os
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from rl_train.errors import TrainConfigError
from rl_train.megatron.kernels import plain
from rl_train.megatron.kernels.adam import ScaledAdamW

type KernelChoice = Literal["auto", "plain", "fused"]


class QueryKeyValue(Protocol):
    """Splits the merged projection, normalises queries and keys and rotates them by their positions."""

    def __call__(
        self, mixed: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, G x R, D], [T, G, D] and [T, G, D] from [T, G, R + 2, D]; cos and sin are [T, D / 2] float32."""
        ...


class RowStatistics(Protocol):
    """What log-probability and entropy need of each row of logits, over this rank's vocabulary entries."""

    def __call__(self, logits: Tensor, targets: Tensor, temperature: float, *, needs_entropy: bool) -> plain.Statistics:
        """Of logits [C, V] and targets [C], -1 where the target is on another rank."""
        ...


class LogitGradient(Protocol):
    """Gradient of the logits, which may take the logits' own memory."""

    def __call__(self, logits: Tensor, rows: plain.RowGradients, temperature: float) -> Tensor:
        """[C, V] in the type of the logits."""
        ...


class AddProduct(Protocol):
    """Adds a.T @ b to a sum in float32, in place."""

    def __call__(self, sum_: Tensor, a: Tensor, b: Tensor, *, is_first: bool = False) -> None:
        """Of sum [V, H], a [C, V] and b [C, H]; `is_first`: what the sum held is not read."""
        ...


class Kernels(NamedTuple):
    """One version of each piece."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """x [..., H], weight [H] and epsilon -> [..., H]; computed in float32 and rounded once."""
    rms_norm_and_input: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """x, weight and epsilon -> `rms_norm` and x, whose two gradients are added in one pass."""
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """x and residual [..., H], weight and epsilon -> norm of the unrounded sum, and the sum; [..., H] each."""
    swiglu: Callable[[Tensor], Tensor]
    """[..., 2 F] with the gate first -> silu(gate) x up, [..., F]."""
    query_key_value: QueryKeyValue
    row_statistics: RowStatistics
    logit_gradient: LogitGradient
    add_product: AddProduct
    adam: type[ScaledAdamW]


PLAIN = Kernels(
    name="plain",
    rms_norm=plain.rms_norm,
    rms_norm_and_input=plain.rms_norm_and_input,
    add_rms_norm=plain.add_rms_norm,
    swiglu=plain.swiglu,
    query_key_value=plain.query_key_value,
    row_statistics=plain.row_statistics,
    logit_gradient=plain.logit_gradient,
    add_product=plain.add_product,
    adam=ScaledAdamW,
)


def choose_kernels(choice: KernelChoice) -> Kernels:
    """The named version; "auto" is fused where CUDA is, plain elsewhere.

    Raises:
        TrainConfigError: if the fused version is wanted and there is no GPU for it.
        ImportError: if it is wanted and Triton is not there.
    """
    if choice == "plain" or (choice == "auto" and not torch.cuda.is_available()):
        return PLAIN
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise TrainConfigError(f"trainer_kernels {choice}: expected auto or plain where there is no GPU")
    from rl_train.megatron.kernels.fused import FUSED

    return FUSED
