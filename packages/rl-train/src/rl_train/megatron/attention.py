"""Attention over packed sequences without Transformer Engine or flash-attn.

T = tokens of the packed row, H = query heads and G = key/value heads of this rank, D = head dimension.
"""

# pyright: standard
# Megatron-Core is annotated in part only.

import math
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rl_train.megatron.packed import PackedSequences


class PackedSelfAttention(SelfAttention):
    """Megatron's self-attention for training on packed rows: no inference caches, no dense masks.

    Parameters, sharding and checkpoint names are those of the base class. Positions come from the row's own
    position ids, so the rotary embedding is applied to all sequences at once.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        *,
        rotary_pos_emb: Tensor,
        packed_seq_params: PackedSequences,
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """[T, 1, hidden] in, [T, 1, hidden] and the bias that the caller has to add out.

        Under sequence parallelism hidden states hold this rank's part of the row, in and out.
        """
        given = [name for name, value in unused.items() if value is not None]
        assert not given, f"packed attention does not take {given}"
        projected: Any = self.get_query_key_value_tensors(hidden_states, None)
        query, key, value = (one.squeeze(1) for one in projected)
        cos, sin = packed_seq_params.rotary(rotary_pos_emb, query.dtype)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            core_attention: Any = self.core_attention
            return core_attention(query, key, value, packed_seq_params)

        if self.checkpoint_core_attention and self.training:
            context = tensor_parallel.checkpoint(attend, False, query, key, value)
        else:
            context = attend(query, key, value)
        output, bias = self.linear_proj(context.reshape(context.shape[0], 1, -1))
        return output, bias


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, D] with the rotary embedding in the half-split form of Hugging Face's and Megatron's models.

    Source: Su et al. 2021, "RoFormer", arXiv:2104.09864, equation 34.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PackedCoreAttention(torch.nn.Module):
    """Causal attention within each sequence of a packed row.

    With half-precision tensors on a GPU: torch's varlen flash kernel. Otherwise: scaled dot-product attention on
    padded batches of sequences of similar length.
    """

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__()
        assert config.kv_channels is not None
        self.scale = 1.0 / math.sqrt(config.kv_channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences) -> Tensor:
        """[T, H, D] from queries [T, H, D], keys and values [T, G, D]."""
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
            return _flash(query, key, value, packed, self.scale)
        return _padded(query, key, value, packed, self.scale)


def _flash(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float) -> Tensor:
    # The module is not in every torch build for CPUs.
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        packed.cu_seqlens_q,
        packed.cu_seqlens_kv,
        packed.max_seqlen_q,
        packed.max_seqlen_kv,
        scale=scale,
        window_size=(-1, 0),  # causal: everything to the left, nothing to the right
    )
    assert isinstance(output, Tensor)
    return output


def _padded(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float) -> Tensor:
    """Padding stands at the end of each sequence, where the causal mask hides it from the tokens that count."""
    parts: list[Tensor] = []
    batches = packed.dense_batches()
    for batch in batches:
        q, k, v = (x[batch.sources].transpose(1, 2) for x in (query, key, value))  # [B, H, L, D]
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        parts.append(attended.transpose(1, 2).flatten(0, 1)[batch.kept])
    order = torch.cat([batch.targets for batch in batches])
    return torch.cat(parts)[torch.argsort(order)]
