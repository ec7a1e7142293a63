"""AdamW that scales the gradient by what is known on the device only, in plain torch."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor


class ScaledAdamW(torch.optim.AdamW):
    """torch's AdamW on gradients times `factor`; where the factor is not finite, a step changes nothing.

    So the norm of the gradient, which decides the factor, need not be waited for. What the model computes with, weights
    in half precision, is written by the same step.
    """

    factor: Tensor | None = None
    """0-dimensional float32; None: gradients are taken as they are."""
    rounded: Mapping[Tensor, Tensor] = {}
    """Weight -> the tensor of as many elements in another type that a step sets to the new weight."""

    @classmethod
    def of(cls, adam: torch.optim.AdamW, rounded: Mapping[Tensor, Tensor]) -> Self:
        """One that updates the weights of another, which has no state yet, and their copies in half precision.

        Megatron's weights may be views, which torch's constructor refuses and its steps do not mind.
        """
        made = cls([torch.zeros(())])
        made.param_groups = adam.param_groups
        made.rounded = rounded
        return made

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates the weights and counts the step, unless the factor is not finite."""
        assert closure is None
        if self.factor is not None:
            if not torch.isfinite(self.factor):
                return
            for weight in self.weights():
                if weight.grad is not None:
                    weight.grad.mul_(self.factor)
        super().step()  # pyright: ignore[reportUnknownMemberType]
        for weight in self.weights():
            if weight in self.rounded:
                self.rounded[weight].copy_(weight)

    def forget_step(self) -> None:
        """Takes back what a step whose factor was not finite has changed: nothing here."""

    def weights(self) -> list[Any]:
        """Of all groups."""
        return [weight for group in self.param_groups for weight in group["params"]]
