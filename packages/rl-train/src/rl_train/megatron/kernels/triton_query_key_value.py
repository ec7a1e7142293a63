"""Split, RMSNorm and rotary embedding of queries and keys as one kernel forward and one backward.

T = tokens, G = key/value heads, R = query heads for each, D = head dimension. A token is projected to [G, R + 2, D]:
for each key/value head its queries, its key and its value. A program works on all heads of a token at once, each in two
halves, which the rotation turns into each other.
"""

# pyright: standard
# Triton is annotated for kernels in part only.

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from rl_train.megatron.kernels.launch import compiled, next_power_of_two, num_programs, on_device

_WARPS = 8


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
                _forward[(num_tokens,)](
                    mixed, query_weight, key_weight, cos, sin, query, key, value, eps, **_sizes(mixed)
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
        programs = num_programs(mixed, num_tokens)
        partial = torch.empty((programs, 2, dim), dtype=torch.float32, device=mixed.device)
        if num_tokens:
            with on_device(mixed):
                _backward[(programs,)](
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


def _sizes(mixed: Tensor) -> dict[str, int]:
    _, groups, per_group, dim = mixed.shape
    return {
        "GROUPS": groups,
        "QUERIES": per_group - 2,
        "HALF": dim // 2,
        "BLOCK_HEADS": next_power_of_two(groups * per_group),
        "BLOCK_HALF": next_power_of_two(dim // 2),
        "num_warps": _WARPS,
    }


@compiled
def _forward(  # noqa: ANN202
    mixed, query_weight, key_weight, cos, sin, query, key, value, eps,  # noqa: ANN001
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, BLOCK_HEADS)
    columns = tl.arange(0, BLOCK_HALF)
    in_half = columns < HALF
    group, within = heads // (QUERIES + 2), heads % (QUERIES + 2)
    exists = heads < GROUPS * (QUERIES + 2)
    is_query, is_key = exists & (within < QUERIES), exists & (within == QUERIES)
    is_value = exists & (within == QUERIES + 1)
    mask = exists[:, None] & in_half[None, :]
    place = token * (GROUPS * (QUERIES + 2) * 2 * HALF) + heads[:, None] * (2 * HALF) + columns[None, :]
    first = tl.load(mixed + place, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(mixed + place + HALF, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)
    weight_1 = _weights(query_weight, key_weight, columns, in_half, is_query)
    weight_2 = _weights(query_weight + HALF, key_weight + HALF, columns, in_half, is_query)
    # Rounded between norm and rotation, like two kernels.
    normed_1 = (first * scale[:, None] * weight_1).to(query.dtype.element_ty).to(tl.float32)
    normed_2 = (second * scale[:, None] * weight_2).to(query.dtype.element_ty).to(tl.float32)
    cosine = tl.load(cos + token * HALF + columns, mask=in_half, other=0.0)[None, :]
    sine = tl.load(sin + token * HALF + columns, mask=in_half, other=0.0)[None, :]
    rotated_1 = (normed_1 * cosine - normed_2 * sine).to(query.dtype.element_ty)
    rotated_2 = (normed_2 * cosine + normed_1 * sine).to(query.dtype.element_ty)
    of_query = (
        query + (token * (GROUPS * QUERIES) + (group * QUERIES + within)[:, None]) * (2 * HALF) + columns[None, :]
    )
    of_group = (token * GROUPS + group[:, None]) * (2 * HALF) + columns[None, :]
    tl.store(of_query, rotated_1, mask=is_query[:, None] & in_half[None, :])
    tl.store(of_query + HALF, rotated_2, mask=is_query[:, None] & in_half[None, :])
    tl.store(key + of_group, rotated_1, mask=is_key[:, None] & in_half[None, :])
    tl.store(key + of_group + HALF, rotated_2, mask=is_key[:, None] & in_half[None, :])
    tl.store(value + of_group, first.to(value.dtype.element_ty), mask=is_value[:, None] & in_half[None, :])
    tl.store(value + of_group + HALF, second.to(value.dtype.element_ty), mask=is_value[:, None] & in_half[None, :])


@compiled
def _weights(query_weight, key_weight, columns, in_half, is_query):  # noqa: ANN001, ANN202
    """[heads, half] the norm's weight of each head."""
    of_query = tl.load(query_weight + columns, mask=in_half, other=0.0).to(tl.float32)
    of_key = tl.load(key_weight + columns, mask=in_half, other=0.0).to(tl.float32)
    return tl.where(is_query[:, None], of_query[None, :], of_key[None, :])


@compiled
def _gradient(grad_query, grad_key, of_query, of_group, query_mask, key_mask):  # noqa: ANN001, ANN202
    """[heads, half] gradient of the rotated query or key of each head."""
    of_queries = tl.load(grad_query + of_query, mask=query_mask, other=0.0).to(tl.float32)
    return of_queries + tl.load(grad_key + of_group, mask=key_mask, other=0.0).to(tl.float32)


@compiled
def _backward(  # noqa: ANN202
    mixed, query_weight, key_weight, cos, sin, grad_query, grad_key, grad_value,  # noqa: ANN001
    grad_mixed, partial, num_tokens, eps,  # noqa: ANN001
    GROUPS: tl.constexpr, QUERIES: tl.constexpr, HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    heads = tl.arange(0, BLOCK_HEADS)
    columns = tl.arange(0, BLOCK_HALF)
    in_half = columns < HALF
    group, within = heads // (QUERIES + 2), heads % (QUERIES + 2)
    exists = heads < GROUPS * (QUERIES + 2)
    is_query, is_key = exists & (within < QUERIES), exists & (within == QUERIES)
    is_value = exists & (within == QUERIES + 1)
    mask = exists[:, None] & in_half[None, :]
    query_mask, key_mask = is_query[:, None] & in_half[None, :], is_key[:, None] & in_half[None, :]
    value_mask = is_value[:, None] & in_half[None, :]
    weight_1 = _weights(query_weight, key_weight, columns, in_half, is_query)
    weight_2 = _weights(query_weight + HALF, key_weight + HALF, columns, in_half, is_query)
    query_1 = tl.zeros((BLOCK_HALF,), dtype=tl.float32)
    query_2 = tl.zeros((BLOCK_HALF,), dtype=tl.float32)
    key_1 = tl.zeros((BLOCK_HALF,), dtype=tl.float32)
    key_2 = tl.zeros((BLOCK_HALF,), dtype=tl.float32)
    for number in range(program, num_tokens, tl.num_programs(0)):
        token = tl.cast(number, tl.int64)
        place = token * (GROUPS * (QUERIES + 2) * 2 * HALF) + heads[:, None] * (2 * HALF) + columns[None, :]
        of_query = (token * (GROUPS * QUERIES) + (group * QUERIES + within)[:, None]) * (2 * HALF) + columns[None, :]
        of_group = (token * GROUPS + group[:, None]) * (2 * HALF) + columns[None, :]
        first = tl.load(mixed + place, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(mixed + place + HALF, mask=mask, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(first * first + second * second, axis=1) / (2 * HALF) + eps)
        first, second = first * scale[:, None], second * scale[:, None]
        cosine = tl.load(cos + token * HALF + columns, mask=in_half, other=0.0)[None, :]
        sine = tl.load(sin + token * HALF + columns, mask=in_half, other=0.0)[None, :]
        rotated_1 = _gradient(grad_query, grad_key, of_query, of_group, query_mask, key_mask)
        rotated_2 = _gradient(grad_query + HALF, grad_key + HALF, of_query, of_group, query_mask, key_mask)
        normed_1 = rotated_1 * cosine + rotated_2 * sine
        normed_2 = rotated_2 * cosine - rotated_1 * sine
        products_1, products_2 = normed_1 * first, normed_2 * second
        query_1 += tl.sum(tl.where(is_query[:, None], products_1, 0.0), axis=0)
        query_2 += tl.sum(tl.where(is_query[:, None], products_2, 0.0), axis=0)
        key_1 += tl.sum(tl.where(is_key[:, None], products_1, 0.0), axis=0)
        key_2 += tl.sum(tl.where(is_key[:, None], products_2, 0.0), axis=0)
        mean = tl.sum(products_1 * weight_1 + products_2 * weight_2, axis=1) / (2 * HALF)
        result_1 = (normed_1 * weight_1 - first * mean[:, None]) * scale[:, None]
        result_2 = (normed_2 * weight_2 - second * mean[:, None]) * scale[:, None]
        value_1 = tl.load(grad_value + of_group, mask=value_mask, other=0.0).to(tl.float32)
        value_2 = tl.load(grad_value + of_group + HALF, mask=value_mask, other=0.0).to(tl.float32)
        result_1 = tl.where(is_value[:, None], value_1, result_1)
        result_2 = tl.where(is_value[:, None], value_2, result_2)
        tl.store(grad_mixed + place, result_1.to(grad_mixed.dtype.element_ty), mask=mask)
        tl.store(grad_mixed + place + HALF, result_2.to(grad_mixed.dtype.element_ty), mask=mask)
    start = partial + program * (4 * HALF) + columns
    tl.store(start, query_1, mask=in_half)
    tl.store(start + HALF, query_2, mask=in_half)
    tl.store(start + 2 * HALF, key_1, mask=in_half)
    tl.store(start + 3 * HALF, key_2, mask=in_half)
