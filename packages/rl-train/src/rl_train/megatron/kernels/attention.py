"""Attention kernels for packed rows in half precision on GPUs.

T = tokens of the row, H = query heads and G = key/value heads of this rank, D = head dimension. Each takes queries
[T, H, D], keys and values [T, G, D] and gives [T, H, D], causal within each sequence; H / G query heads share a
key/value head without a copy of it.
"""

# pyright: standard
# The kernels' libraries are annotated in part, or not installed.

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnBackend
from torch import Tensor

from rl_train.errors import TrainConfigError

logger = logging.getLogger(__name__)

# Major compute capabilities that FlashAttention 4 has kernels for: Hopper and Blackwell.
_FLASH_4_CAPABILITIES = (9, 10)
# Lengths of the row on which kernels are compared: below, at and beyond a kernel's tiles.
_CHECKED_LENGTHS = (300, 1, 77, 128, 513, 5)
# Norm of the difference over the norm: two kernels that round to bfloat16 differ by half of it.
_CHECKED_ERROR = 1e-2


class AttentionKernel(NamedTuple):
    """A kernel and its name."""

    name: str
    attend: Callable[[Tensor, Tensor, Tensor, PackedSeqParams, float], Tensor]
    """Queries, keys, values, the row's sequences and the factor of the scores."""


class HeadShape(NamedTuple):
    """Of this rank's attention."""

    num_heads: int
    num_groups: int
    dim: int


@functools.cache
def choose_attention(backend: AttnBackend, shape: HeadShape, dtype: torch.dtype) -> AttentionKernel:
    """The kernel that `--attention-backend` means on this GPU.

    "auto" is FlashAttention 4 where its library is installed, knows the card and agrees with torch's kernel on a small
    row, which compiles it (about a minute at first use); else the same as "flash", which is torch's own FlashAttention
    2. cuDNN's kernel is not offered: torch 2.11 builds its graph anew for every call on packed sequences, and its
    gradients were seen to be wrong where query heads share keys.

    Raises:
        TrainConfigError: for any other.
    """
    torchs = AttentionKernel("flash", _flash)
    if backend == AttnBackend.flash:
        return torchs
    if backend != AttnBackend.auto:
        raise TrainConfigError(f"--attention-backend {backend.name}: expected auto or flash")
    flash_4 = _flash_4()
    if flash_4 is None:
        return torchs
    try:
        errors = differences(flash_4, torchs, shape, dtype)
    except Exception as error:  # noqa: BLE001 - a library that compiles when it is called can fail in any way
        logger.warning("FlashAttention 4 cannot be used (%s: %s): attention is torch's", type(error).__name__, error)
        return torchs
    if not all(error < _CHECKED_ERROR for error in errors):  # NaN is not below anything
        logger.warning("FlashAttention 4 disagrees with torch's kernel by %s, which is taken", errors)
        return torchs
    return flash_4


def differences(kernel: AttentionKernel, other: AttentionKernel, shape: HeadShape, dtype: torch.dtype) -> list[float]:
    """Of output and gradients of queries, keys and values on a small row: norm of the difference over the norm."""
    draw = torch.Generator(device="cuda").manual_seed(0)
    bounds = torch.tensor([0, *_CHECKED_LENGTHS], device="cuda").cumsum(0).to(torch.int32)
    num_tokens, longest = sum(_CHECKED_LENGTHS), max(_CHECKED_LENGTHS)
    row = PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=longest, max_seqlen_kv=longest
    )

    def random(num_heads: int) -> Tensor:
        return torch.randn((num_tokens, num_heads, shape.dim), device="cuda", generator=draw).to(dtype)

    inputs = random(shape.num_heads), random(shape.num_groups), random(shape.num_groups)
    grad = random(shape.num_heads)

    def run(chosen: AttentionKernel) -> list[Tensor]:
        query, key, value = (one.clone().requires_grad_() for one in inputs)
        with torch.enable_grad():
            output = chosen.attend(query, key, value, row, shape.dim**-0.5)
        return [output.detach(), *torch.autograd.grad(output, (query, key, value), grad)]

    pairs = zip(run(kernel), run(other), strict=True)
    return [float((one.float() - two.float()).norm() / two.float().norm()) for one, two in pairs]


def _flash_4() -> AttentionKernel | None:
    """FlashAttention 4, which is JIT-compiled; None where it, or a kernel of it for this card, is not there."""
    major = torch.cuda.get_device_capability()[0]
    if major not in _FLASH_4_CAPABILITIES:
        return None
    try:
        library: Any = importlib.import_module("flash_attn.cute")
    except ImportError as error:
        logger.info("FlashAttention 4 is not installed (%s): attention is torch's", error)
        return None
    varlen: Any = library.flash_attn_varlen_func

    def attend(query: Tensor, key: Tensor, value: Tensor, row: PackedSeqParams, scale: float) -> Tensor:
        output, _ = varlen(
            query,
            key,
            value,
            cu_seqlens_q=row.cu_seqlens_q,
            cu_seqlens_k=row.cu_seqlens_kv,
            max_seqlen_q=row.max_seqlen_q,
            max_seqlen_k=row.max_seqlen_kv,
            softmax_scale=scale,
            causal=True,
        )
        return output

    return AttentionKernel("flash 4", attend)


def _flash(query: Tensor, key: Tensor, value: Tensor, row: PackedSeqParams, scale: float) -> Tensor:
    # The module is not in every torch build for CPUs.
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query,
        key,
        value,
        row.cu_seqlens_q,
        row.cu_seqlens_kv,
        row.max_seqlen_q,
        row.max_seqlen_kv,
        scale=scale,
        window_size=(-1, 0),  # causal: everything to the left, nothing to the right
    )
    assert isinstance(output, Tensor)
    return output
