"""Split, RMSNorm and rotary embedding of queries and keys as one kernel forward and one backward.

T = tokens, G = key/value heads, R = query heads for each, D = head dimension. A token is projected to [G, R + 2, D]:
for each key/value head its queries, its key and its value. A program takes a few tokens and goes through their heads
one after the other, each in two halves, which the rotation turns into each other.
"""

# pyright: standard
# Triton is annotated for kernels in part only.

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.launch import compiled, next_power_of_two, on_device

# Small programs, of which a processor holds many: while some wait for memory, others compute.
_BLOCK_TOKENS = 8
_WARPS = 4


def query_key_value(
    mixed: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `plain.query_key_value`."""
    return _QueryKeyValue.apply(mixed, query_weight, key_weight, cos, sin, eps)


class _QueryKeyValue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, cos, sin = mixed.contiguous(), cos.contiguous(), sin.contiguous()
        num_tokens, groups, per_group, dim = mixed.shape
        query = mixed.new_empty((num_tokens, groups * (per_group - 2), dim))
        key, value = mixed.new_empty((num_tokens, groups, dim)), mixed.new_empty((num_tokens, groups, dim))
        if num_tokens:
            with on_device(mixed):
                _query_key_value_forward[(_num_blocks(num_tokens),)](
                    mixed, query_weight, key_weight, cos, sin, query, key, value, num_tokens, eps, **_sizes(mixed)
                )
        ctx.save_for_backward(mixed, query_weight, key_weight, cos, sin)
        ctx.eps = eps
        return query, key, value

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        mixed, query_weight, key_weight, cos, sin = ctx.saved_tensors
        num_tokens, dim = mixed.shape[0], mixed.shape[-1]
        grad_mixed = torch.empty_like(mixed)
        partial = torch.empty((_num_blocks(num_tokens), 2, dim), dtype=torch.float32, device=mixed.device)
        if num_tokens:
            with on_device(mixed):
                _query_key_value_backward[(_num_blocks(num_tokens),)](
                    mixed, query_weight, key_weight, cos, sin,
                    grad_query.contiguous(), grad_key.contiguous(), grad_value.contiguous(),
                    grad_mixed, partial, num_tokens, ctx.eps, **_sizes(mixed),
                )  # fmt: skip
        grad_weights = partial.sum(0)
        return (
            grad_mixed,
            grad_weights[0].to(query_weight.dtype),
            grad_weights[1].to(key_weight.dtype),
            None,
            None,
            None,
        )


def _num_blocks(num_tokens: int) -> int:
    return -(-num_tokens // _BLOCK_TOKENS)


def _sizes(mixed: Tensor) -> dict[str, int]:
    _, groups, per_group, dim = mixed.shape
    return {
        "GROUPS": groups,
        "QUERIES": per_group - 2,
        "HALF": dim // 2,
        "BLOCK_TOKENS": _BLOCK_TOKENS,
        "BLOCK_HALF": next_power_of_two(dim // 2),
        "num_warps": _WARPS,
    }


@compiled
def _tile(num_tokens, HALF: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_HALF: tl.constexpr):  # noqa: ANN001, ANN202
    """The program's tokens, the columns of half a head, and where both are there."""
    tokens = (tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)).to(tl.int64)[:, None]
    columns = tl.arange(0, BLOCK_HALF)[None, :]
    return tokens, columns, (tokens < num_tokens) & (columns < HALF)


@compiled
def _at_positions(cos, sin, tokens, columns, mask, HALF: tl.constexpr):  # noqa: ANN001, ANN202
    place = tokens * HALF + columns
    return tl.load(cos + place, mask=mask, other=0.0), tl.load(sin + place, mask=mask, other=0.0)


@compiled
def _halves(weight, columns, HALF: tl.constexpr):  # noqa: ANN001, ANN202
    first = tl.load(weight + columns, mask=columns < HALF, other=0.0).to(tl.float32)
    second = tl.load(weight + HALF + columns, mask=columns < HALF, other=0.0).to(tl.float32)
    return first, second


@compiled
def _query_key_value_forward(  # noqa: ANN202
    mixed, query_weight, key_weight, cos, sin, query, key, value, num_tokens, eps,  # noqa: ANN001
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, HALF: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    tokens, columns, mask = _tile(num_tokens, HALF, BLOCK_TOKENS, BLOCK_HALF)
    cosine, sine = _at_positions(cos, sin, tokens, columns, mask, HALF)
    query_1, query_2 = _halves(query_weight, columns, HALF)
    key_1, key_2 = _halves(key_weight, columns, HALF)
    for group in range(GROUPS):
        source = mixed + (tokens * GROUPS + group) * ((QUERIES + 2) * 2 * HALF) + columns
        target = query + (tokens * GROUPS + group) * (QUERIES * 2 * HALF) + columns
        of_group = (tokens * GROUPS + group) * (2 * HALF) + columns
        for number in tl.static_range(QUERIES):  # pyright: ignore[reportGeneralTypeIssues]  the compiler unrolls it
            _head_forward(
                source + number * 2 * HALF, target + number * 2 * HALF, query_1, query_2, cosine, sine, mask, eps, HALF
            )
        _head_forward(source + QUERIES * 2 * HALF, key + of_group, key_1, key_2, cosine, sine, mask, eps, HALF)
        _head_copy(source + (QUERIES + 1) * 2 * HALF, value + of_group, mask, HALF)


@compiled
def _head_forward(source, target, weight_1, weight_2, cosine, sine, mask, eps, HALF: tl.constexpr):  # noqa: ANN001, ANN202
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)[:, None]
    # Rounded between norm and rotation, like two kernels.
    normed_1 = (first * scale * weight_1).to(target.dtype.element_ty).to(tl.float32)
    normed_2 = (second * scale * weight_2).to(target.dtype.element_ty).to(tl.float32)
    tl.store(target, (normed_1 * cosine - normed_2 * sine).to(target.dtype.element_ty), mask=mask)
    tl.store(target + HALF, (normed_2 * cosine + normed_1 * sine).to(target.dtype.element_ty), mask=mask)


@compiled
def _head_copy(source, target, mask, HALF: tl.constexpr):  # noqa: ANN001, ANN202
    tl.store(target, tl.load(source, mask=mask, other=0.0), mask=mask)
    tl.store(target + HALF, tl.load(source + HALF, mask=mask, other=0.0), mask=mask)


@compiled
def _query_key_value_backward(  # noqa: ANN202
    mixed, query_weight, key_weight, cos, sin, grad_query, grad_key, grad_value,  # noqa: ANN001
    grad_mixed, partial, num_tokens, eps,  # noqa: ANN001
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, HALF: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    tokens, columns, mask = _tile(num_tokens, HALF, BLOCK_TOKENS, BLOCK_HALF)
    cosine, sine = _at_positions(cos, sin, tokens, columns, mask, HALF)
    query_1, query_2 = _halves(query_weight, columns, HALF)
    key_1, key_2 = _halves(key_weight, columns, HALF)
    # Gradients of the weights, still one for each token of the block.
    sum_query_1 = tl.zeros((BLOCK_TOKENS, BLOCK_HALF), dtype=tl.float32)
    sum_query_2 = tl.zeros((BLOCK_TOKENS, BLOCK_HALF), dtype=tl.float32)
    sum_key_1 = tl.zeros((BLOCK_TOKENS, BLOCK_HALF), dtype=tl.float32)
    sum_key_2 = tl.zeros((BLOCK_TOKENS, BLOCK_HALF), dtype=tl.float32)
    for group in range(GROUPS):
        place = (tokens * GROUPS + group) * ((QUERIES + 2) * 2 * HALF) + columns
        of_query = (tokens * GROUPS + group) * (QUERIES * 2 * HALF) + columns
        of_group = (tokens * GROUPS + group) * (2 * HALF) + columns
        for number in tl.static_range(QUERIES):  # pyright: ignore[reportGeneralTypeIssues]  the compiler unrolls it
            shift = number * 2 * HALF
            product_1, product_2 = _head_backward(
                mixed + place + shift, grad_query + of_query + shift, grad_mixed + place + shift,
                query_1, query_2, cosine, sine, mask, eps, HALF,
            )  # fmt: skip
            sum_query_1 += product_1
            sum_query_2 += product_2
        product_1, product_2 = _head_backward(
            mixed + place + QUERIES * 2 * HALF, grad_key + of_group, grad_mixed + place + QUERIES * 2 * HALF,
            key_1, key_2, cosine, sine, mask, eps, HALF,
        )  # fmt: skip
        sum_key_1 += product_1
        sum_key_2 += product_2
        _head_copy(grad_value + of_group, grad_mixed + place + (QUERIES + 1) * 2 * HALF, mask, HALF)
    row = tl.arange(0, BLOCK_HALF)
    start = partial + tl.program_id(0) * (4 * HALF) + row
    tl.store(start, tl.sum(sum_query_1, axis=0), mask=row < HALF)
    tl.store(start + HALF, tl.sum(sum_query_2, axis=0), mask=row < HALF)
    tl.store(start + 2 * HALF, tl.sum(sum_key_1, axis=0), mask=row < HALF)
    tl.store(start + 3 * HALF, tl.sum(sum_key_2, axis=0), mask=row < HALF)


@compiled
def _head_backward(  # noqa: ANN202
    source, grad, target, weight_1, weight_2, cosine, sine, mask, eps, HALF: tl.constexpr  # noqa: ANN001
):  # fmt: skip
    """Stores the gradient of one head and gives what its tokens add to that of the norm's weight, in two halves."""
    rotated_1 = tl.load(grad, mask=mask, other=0.0).to(tl.float32)
    rotated_2 = tl.load(grad + HALF, mask=mask, other=0.0).to(tl.float32)
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)[:, None]
    unit_1, unit_2 = first * scale, second * scale
    normed_1 = rotated_1 * cosine + rotated_2 * sine
    normed_2 = rotated_2 * cosine - rotated_1 * sine
    product_1, product_2 = normed_1 * unit_1, normed_2 * unit_2
    mean = tl.sum(product_1 * weight_1 + product_2 * weight_2, axis=1)[:, None] / (2 * HALF)
    tl.store(target, ((normed_1 * weight_1 - unit_1 * mean) * scale).to(target.dtype.element_ty), mask=mask)
    tl.store(target + HALF, ((normed_2 * weight_2 - unit_2 * mean) * scale).to(target.dtype.element_ty), mask=mask)
    return product_1, product_2
