"""SwiGLU as one kernel forward and one backward. N = rows, F = feed-forward size of this rank."""

# pyright: standard
# Triton is annotated for kernels in part only.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.launch import compiled, on_device

# Two 16-byte accesses to each operand for every thread.
_BLOCK = 2048


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) x up, [..., F] from [..., 2 F] with the gate first; computed in float32 and rounded once."""
    output: Tensor = _SwiGLU.apply(x)
    return output


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        size = x.shape[-1] // 2
        output = x.new_empty((*x.shape[:-1], size))
        num_rows = output.numel() // size
        if num_rows:
            with on_device(x):
                _swiglu_forward[(num_rows, triton.cdiv(size, _BLOCK))](x, output, size, BLOCK=_BLOCK, num_warps=4)
        ctx.save_for_backward(x)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        size = x.shape[-1] // 2
        grad_output, grad_x = grad_output.contiguous(), torch.empty_like(x)
        num_rows = grad_output.numel() // size
        if num_rows:
            with on_device(x):
                _swiglu_backward[(num_rows, triton.cdiv(size, _BLOCK))](
                    grad_output, x, grad_x, size, BLOCK=_BLOCK, num_warps=4
                )
        return grad_x


@compiled
def _swiglu_forward(x, output, size, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(x + row * 2 * size + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * size + size + columns, mask=mask, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(output + row * size + columns, result.to(output.dtype.element_ty), mask=mask)


@compiled
def _swiglu_backward(grad_output, x, grad_x, size, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    grads = tl.load(grad_output + row * size + columns, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * size + columns, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * size + size + columns, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_gate = grads * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    grad_up = grads * gate * sigmoid
    tl.store(grad_x + row * 2 * size + columns, grad_gate.to(grad_x.dtype.element_ty), mask=mask)
    tl.store(grad_x + row * 2 * size + size + columns, grad_up.to(grad_x.dtype.element_ty), mask=mask)
