"""RMSNorm as one kernel forward and one backward. N = rows, H = their length."""

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


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        num_rows, length = rows.shape
        output = torch.empty_like(rows)
        inverse = torch.empty(num_rows, dtype=torch.float32, device=x.device)
        block = next_power_of_two(length)
        if num_rows:
            with on_device(x):
                _rms_norm_forward[(num_rows,)](
                    rows, weight, output, inverse, length, eps, BLOCK=block, num_warps=_warps(block)
                )
        ctx.save_for_backward(rows, weight, inverse)
        return output.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, inverse = ctx.saved_tensors
        num_rows, length = rows.shape
        grad_output = grad_output.contiguous()
        grad_rows = torch.empty_like(rows)
        programs = num_programs(rows, num_rows)
        partial = torch.empty((programs, length), dtype=torch.float32, device=rows.device)
        block = next_power_of_two(length)
        if num_rows:
            with on_device(rows):
                _rms_norm_backward[(programs,)](
                    grad_output, rows, weight, inverse, grad_rows, partial, num_rows, length,
                    BLOCK=block, num_warps=_warps(block),
                )  # fmt: skip
        return grad_rows.view(grad_output.shape), partial.sum(0).to(weight.dtype), None


def _warps(block: int) -> int:
    return min(max(block // 256, 1), 16)


@compiled
def _rms_norm_forward(x, weight, output, inverse, length, eps, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < length
    values = tl.load(x + row * length + columns, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / length + eps)
    weights = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(inverse + row, scale)
    tl.store(output + row * length + columns, (values * scale * weights).to(output.dtype.element_ty), mask=mask)


@compiled
def _rms_norm_backward(  # noqa: ANN202
    grad_output, x, weight, inverse, grad_x, partial, num_rows, length, BLOCK: tl.constexpr  # noqa: ANN001
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
        tl.store(grad_x + start + columns, result.to(grad_x.dtype.element_ty), mask=mask)
        grad_weight += grads * normed
    tl.store(partial + program * length + columns, grad_weight, mask=mask)
