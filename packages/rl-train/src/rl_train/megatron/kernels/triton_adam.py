"""AdamW as one kernel for each tensor, which reads the gradient and its factor where they lie.

The weight in half precision, which Megatron would copy in a second pass, is written by the same kernel.
"""

# pyright: standard
# Triton is annotated for kernels, not for their calls.

import torch
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.adam import ScaledAdamW
from rl_train.megatron.kernels.launch import compiled, on_device

_BLOCK = 2048
_WARPS = 8


class FusedAdamW(ScaledAdamW):
    """The same update in one pass over weight, gradient and moments, in float32. No wait for the factor.

    Steps are counted on the host before it is known whether the factor is finite: see `forget_step`.

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates the weights on the device, unless the factor is not finite, and counts the step."""
        assert closure is None
        for group in self.param_groups:
            assert not group["amsgrad"]
            assert not group["maximize"]
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group["lr"], group["betas"], group["eps"], group["weight_decay"])

    def forget_step(self) -> None:
        """Takes the step out of the count: the kernels have left everything as it was."""
        for weight in self.weights():
            if weight.grad is not None:
                self.state[weight]["step"] -= 1

    def _update(
        self, weight: Tensor, grad: Tensor, rate: float, betas: tuple[float, float], eps: float, decay: float
    ) -> None:
        state = self.state[weight]
        state["step"] += 1
        count = float(state["step"])
        size = weight.numel()
        if size == 0:
            return
        factor = self.factor if self.factor is not None else torch.ones((), device=weight.device)
        with on_device(weight):
            _adamw[(-(-size // _BLOCK),)](
                weight, grad, state["exp_avg"], state["exp_avg_sq"], factor, self.rounded.get(weight, weight),
                1 - rate * decay, rate / (1 - betas[0] ** count), (1 - betas[1] ** count) ** -0.5,
                1 - betas[0], betas[1], 1 - betas[1], eps, size,
                HAS_ROUNDED=weight in self.rounded, BLOCK=_BLOCK, num_warps=_WARPS,
            )  # fmt: skip


@compiled
def _adamw(  # noqa: ANN202
    weight, grad, mean, square, factor, rounded,  # noqa: ANN001
    shrink, rate, correction, mean_share, beta_2, square_share, eps, size,  # noqa: ANN001
    HAS_ROUNDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    scale = tl.load(factor)
    # Neither infinite nor NaN: the difference of such a number and itself is not 0.
    if scale - scale == 0.0:
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = place < size
        gradient = tl.load(grad + place, mask=mask, other=0.0) * scale
        first = tl.load(mean + place, mask=mask, other=0.0)
        second = tl.load(square + place, mask=mask, other=0.0)
        value = tl.load(weight + place, mask=mask, other=0.0) * shrink
        first = first + (gradient - first) * mean_share
        second = second * beta_2 + gradient * gradient * square_share
        value = value - rate * first / (tl.sqrt(second) * correction + eps)
        tl.store(mean + place, first, mask=mask)
        tl.store(square + place, second, mask=mask)
        tl.store(weight + place, value, mask=mask)
        if HAS_ROUNDED:
            tl.store(rounded + place, value.to(rounded.dtype.element_ty), mask=mask)
