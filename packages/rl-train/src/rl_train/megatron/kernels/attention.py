"""Attention kernels for packed rows in half precision on GPUs.

T = tokens of the row, H = query heads and G = key/value heads of this rank, D = head dimension. Each takes queries
[T, H, D], keys and values [T, G, D] and gives [T, H, D], causal within each sequence; H / G query heads share a
key/value head without a copy of it.
"""

# pyright: standard
# The kernels' libraries are annotated in part, or not installed.

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


class AttentionKernel(NamedTuple):
    """A kernel and its name."""

    name: str
    attend: Callable[[Tensor, Tensor, Tensor, PackedSeqParams, float], Tensor]
    """Queries, keys, values, the row's sequences and the factor of the scores."""


def choose_attention(backend: AttnBackend) -> AttentionKernel:
    """The kernel that `--attention-backend` means on this GPU.

    "auto" is FlashAttention 4 where its library is installed and knows the card, else the same as "flash", which is
    torch's own FlashAttention 2. cuDNN's kernel is not offered: torch 2.11 builds its graph anew for every call on
    packed sequences, and its gradients were seen to be wrong where query heads share keys.

    Raises:
        TrainConfigError: for any other.
    """
    if backend == AttnBackend.auto:
        flash_4 = _flash_4()
        return flash_4 or AttentionKernel("flash", _flash)
    if backend == AttnBackend.flash:
        return AttentionKernel("flash", _flash)
    raise TrainConfigError(f"--attention-backend {backend.name}: expected auto or flash")


def _flash_4() -> AttentionKernel | None:
    if torch.cuda.get_device_capability()[0] not in _FLASH_4_CAPABILITIES:
        return None
    try:
        library: Any = importlib.import_module("flash_attn.cute")
    except ImportError as error:
        logger.info("FlashAttention 4 is not installed (%s): attention is torch's FlashAttention 2", error)
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
