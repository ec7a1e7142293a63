"""RMSNorm, alone and after a sum with the residual, as one kernel forward and one backward. N = rows, H = their length.

The residual stream's gradient, which autograd would add in a pass of its own, is added in the backward kernel.
"""

# pyright: standard
# Triton is annotated for kernels in part only.

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.launch import compiled, next_power_of_two, num_programs, on_device


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32 and rounded once."""
    output: Tensor = _RMSNorm.apply(x, weight, eps)
    return output


def rms_norm_and_input(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `plain.rms_norm_and_input`."""
    return _RMSNormAndInput.apply(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `plain.add_rms_norm`."""
    return _AddRMSNorm.apply(x, residual, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, output, inverse = _normed(x, weight, eps)
        ctx.save_for_backward(rows, weight, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_gradients(ctx.saved_tensors, grad_output, None), None


class _RMSNormAndInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, output, inverse = _normed(x, weight, eps)
        ctx.save_for_backward(rows, weight, inverse)
        return output, x

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, grad_input: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_gradients(ctx.saved_tensors, grad_output, grad_input), None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, residual = x.contiguous(), residual.contiguous()
        num_rows, length = x.numel() // x.shape[-1], x.shape[-1]
        output, total = torch.empty_like(x), torch.empty_like(x)
        inverse = torch.empty(num_rows, dtype=torch.float32, device=x.device)
        block = next_power_of_two(length)
        if num_rows:
            with on_device(x):
                _add_rms_norm_forward[(num_rows,)](
                    x, residual, weight, output, total, inverse, length, eps, BLOCK=block, num_warps=_warps(block)
                )
        ctx.save_for_backward(total, weight, inverse)
        return output, total

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor, grad_total: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_x, grad_weight = _gradients(ctx.saved_tensors, grad_output, grad_total)
        return grad_x, grad_x, grad_weight, None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The input without gaps, the output, and [N] the inverse of each row's root mean square."""
    x = x.contiguous()
    num_rows, length = x.numel() // x.shape[-1], x.shape[-1]
    output = torch.empty_like(x)
    inverse = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    block = next_power_of_two(length)
    if num_rows:
        with on_device(x):
            _rms_norm_forward[(num_rows,)](
                x, weight, output, inverse, length, eps, BLOCK=block, num_warps=_warps(block)
            )
    return x, output, inverse


def _gradients(
    saved: tuple[Tensor, Tensor, Tensor], grad_output: Tensor, grad_beside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of what was normed and of the weight, from both and the inverses; `grad_beside` comes from another use."""
    x, weight, inverse = saved
    num_rows, length = inverse.numel(), x.shape[-1]
    grad_output = grad_output.contiguous()
    grad_x = torch.empty_like(x)
    programs = num_programs(x, num_rows)
    partial = torch.empty((programs, length), dtype=torch.float32, device=x.device)
    block = next_power_of_two(length)
    if num_rows:
        with on_device(x):
            _rms_norm_backward[(programs,)](
                grad_output, grad_output if grad_beside is None else grad_beside.contiguous(),
                x, weight, inverse, grad_x, partial, num_rows, length,
                HAS_BESIDE=grad_beside is not None, BLOCK=block, num_warps=_warps(block),
            )  # fmt: skip
    return grad_x, partial.sum(0).to(weight.dtype)


def _warps(block: int) -> int:
    return min(max(block // 256, 1), 16)


@compiled
def _rms_norm_forward(x, weight, output, inverse, length, eps, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    values = tl.load(x + row * length + columns, mask=mask, other=0.0).to(tl.float32)
    _store_normed(values, weight, output, inverse, row, length, eps, BLOCK)


@compiled
def _add_rms_norm_forward(  # noqa: ANN202
    x, residual, weight, output, summed, inverse, length, eps, BLOCK: tl.constexpr  # noqa: ANN001
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    values = tl.load(residual + row * length + columns, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(x + row * length + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(summed + row * length + columns, values.to(summed.dtype.element_ty), mask=mask)
    _store_normed(values, weight, output, inverse, row, length, eps, BLOCK)


@compiled
def _store_normed(values, weight, output, inverse, row, length, eps, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / length + eps)
    weights = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(inverse + row, scale)
    tl.store(output + row * length + columns, (values * scale * weights).to(output.dtype.element_ty), mask=mask)


@compiled
def _rms_norm_backward(  # noqa: ANN202
    grad_output, grad_beside, x, weight, inverse, grad_x, partial, num_rows, length,  # noqa: ANN001
    HAS_BESIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    weights = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((BLOCK,), dtype=tl.float32)
    for number in range(program, num_rows, tl.num_programs(0)):
        start = tl.cast(number, tl.int64) * length
        grads = tl.load(grad_output + start + columns, mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(inverse + number)
        normed = tl.load(x + start + columns, mask=mask, other=0.0).to(tl.float32) * scale
        weighted = grads * weights
        mean = tl.sum(normed * weighted, axis=0) / length
        result = (weighted - normed * mean) * scale
        if HAS_BESIDE:
            result += tl.load(grad_beside + start + columns, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x + start + columns, result.to(grad_x.dtype.element_ty), mask=mask)
        grad_weight += grads * normed
    tl.store(partial + program * length + columns, grad_weight, mask=mask)
