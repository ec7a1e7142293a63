"""Log-probabilities of one chunk of logits: one pass forward, one backward. C = rows, V = vocabulary entries."""

# pyright: standard
# Triton is annotated for kernels in part only.

import torch
import triton
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.launch import compiled, next_power_of_two, on_device
from rl_train.megatron.kernels.plain import RowGradients, Statistics

_BLOCK = 4096
_LOWEST = tl.constexpr(-1e38)


def row_statistics(logits: Tensor, targets: Tensor, temperature: float, *, needs_entropy: bool) -> Statistics:
    """See `plain.row_statistics`."""
    num_rows, length = logits.shape
    statistics = Statistics(*torch.zeros((4, num_rows), dtype=torch.float32, device=logits.device))
    if num_rows:
        with on_device(logits):
            _row_statistics[(num_rows,)](
                logits, targets, *statistics, length, 1.0 / temperature,
                NEEDS_ENTROPY=needs_entropy, BLOCK=_block(length), num_warps=8,
            )  # fmt: skip
    return statistics


def logit_gradient(logits: Tensor, rows: RowGradients, temperature: float) -> Tensor:
    """See `plain.logit_gradient`; the gradient takes the logits' memory."""
    num_rows, length = logits.shape
    block = _block(length)
    has_entropy = rows.entropy is not None and rows.grad_entropy is not None
    if num_rows:
        with on_device(logits):
            _logit_gradient[(num_rows, triton.cdiv(length, block))](
                logits, rows.targets, rows.log_norm, rows.grad_logprobs,
                rows.entropy if has_entropy else rows.log_norm, rows.grad_entropy if has_entropy else rows.log_norm,
                length, 1.0 / temperature, NEEDS_ENTROPY=has_entropy, BLOCK=block, num_warps=8,
            )  # fmt: skip
    return logits


def _block(length: int) -> int:
    return min(_BLOCK, next_power_of_two(length))


@compiled
def _row_statistics(  # noqa: ANN202
    logits, targets, largest, total, target, weighted, length, inverse_temperature,  # noqa: ANN001
    NEEDS_ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * length
    # Every lane keeps the largest value it has seen and sums relative to it; the lanes are merged at the end.
    highest = tl.full((BLOCK,), _LOWEST, dtype=tl.float32)
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    products = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, length, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        mask = columns < length
        values = tl.load(start + columns, mask=mask, other=0.0).to(tl.float32) * inverse_temperature
        higher = tl.maximum(highest, tl.where(mask, values, _LOWEST))
        shrink = tl.exp(highest - higher)
        exponentials = tl.where(mask, tl.exp(values - higher), 0.0)
        sums = sums * shrink + exponentials
        if NEEDS_ENTROPY:
            products = products * shrink + exponentials * values
        highest = higher
    over_lanes = tl.max(highest, axis=0)
    shrink = tl.exp(highest - over_lanes)
    tl.store(largest + row, over_lanes)
    tl.store(total + row, tl.sum(sums * shrink, axis=0))
    if NEEDS_ENTROPY:
        tl.store(weighted + row, tl.sum(products * shrink, axis=0))
    chosen = tl.load(targets + row)
    is_here = chosen >= 0
    value = tl.load(start + chosen, mask=is_here, other=0.0).to(tl.float32) * inverse_temperature
    tl.store(target + row, value)


@compiled
def _logit_gradient(  # noqa: ANN202
    logits, targets, log_norm, grad_logprobs, entropy, grad_entropy, length, inverse_temperature,  # noqa: ANN001
    NEEDS_ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < length
    place = logits + row * length + columns
    log_p = tl.load(place, mask=mask, other=0.0).to(tl.float32) * inverse_temperature - tl.load(log_norm + row)
    p = tl.exp(log_p)
    grad = tl.load(grad_logprobs + row)
    factor = grad
    if NEEDS_ENTROPY:
        factor = grad + (log_p + tl.load(entropy + row)) * tl.load(grad_entropy + row)
    result = tl.where(columns == tl.load(targets + row), grad, 0.0) - p * factor
    tl.store(place, (result * inverse_temperature).to(logits.dtype.element_ty), mask=mask)
