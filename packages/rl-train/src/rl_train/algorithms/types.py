"""What a loss takes and gives. T = tokens of a micro-batch (padding included), S = sequences in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

_PER_TOKEN = (
    "logprobs",
    "loss_weights",
    "advantages",
    "rollout_logprobs",
    "old_logprobs",
    "ref_logprobs",
    "entropy",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossInputs:
    """The tensors of one micro-batch, all on one device. Position t speaks of token t of the packed row.

    Sequences are whole: under context parallelism the trainer gathers them first.
    Where loss_weights is 0 the other tensors may hold anything, NaN included.

    Raises:
        ValueError: if a tensor does not have shape [T].
    """

    logprobs: Tensor
    """[T] float32, with gradient: log-probability of each token under the present weights."""
    loss_weights: Tensor
    """[T] float32 factor of the token's loss; 0 where the token is not trained."""
    advantages: Tensor
    """[T] float32; all 0 for supervised data."""
    rollout_logprobs: Tensor
    """[T] float32 log-probability under the policy that drew the token, as the engine gave it."""
    cu_seqlens: Tensor
    """[S+1] int32: where each sequence begins, and T at the end."""
    old_logprobs: Tensor | None = None
    """[T] float32 under the weights before the first step on these samples; None: the present ones, detached."""
    ref_logprobs: Tensor | None = None
    """[T] float32 under the reference policy."""
    entropy: Tensor | None = None
    """[T] float32 entropy, in nats, of the distribution that each token was drawn from."""

    def __post_init__(self) -> None:
        for name in _PER_TOKEN:
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tensor.shape != (len(self.logprobs),):
                raise ValueError(f"loss: expected {name} of shape ({len(self.logprobs)},), got {tuple(tensor.shape)}")

    @property
    def trained(self) -> Tensor:
        """[T] bool: True on the tokens that count."""
        return self.loss_weights != 0

    def with_zeros_where_untrained(self) -> Self:
        """The same inputs with 0 in every tensor where the token is not trained, so that NaN there reaches nothing.

        A product with a mask would not do: 0 x NaN is NaN, in the value and in the gradient.
        """
        trained = self.trained
        tensors = {name: getattr(self, name) for name in _PER_TOKEN}
        return replace(self, **{name: keep(trained, x) for name, x in tensors.items() if x is not None})


def keep(mask: Tensor, values: Tensor) -> Tensor:
    """[T] values where mask is True, 0 elsewhere, with gradient 0 there."""
    return torch.where(mask, values, torch.zeros_like(values))


class LossOutput(NamedTuple):
    """What a micro-batch adds to the step's loss and metrics."""

    loss: Tensor
    """Scalar with gradient: sum over tokens of loss_weights x token loss."""
    metrics: Mapping[str, Tensor]
    """Scalars without gradient: sums over the trained tokens. The trainer adds them up over micro-batches and ranks
    and divides by the number of trained tokens."""


class LossFunction(Protocol):
    """A loss of one micro-batch. Losses add up: how samples are split over micro-batches does not change the sum."""

    @property
    def needs_entropy(self) -> bool:
        """Whether `LossInputs.entropy` must be given, with its gradient."""
        ...

    def __call__(self, inputs: LossInputs, /) -> LossOutput:
        """The loss and the metrics of one micro-batch."""
        ...


@runtime_checkable
class LinearLoss(LossFunction, Protocol):
    """A loss that is linear in the log-probabilities: its gradient is known before they are.

    The trainer then computes gradients of the logits while it has them, and not a second time in the backward pass.
    """

    def logprob_gradient(self, loss_weights: Tensor) -> Tensor:
        """[T] derivative of the loss by each token's log-probability, from its loss weights."""
        ...
