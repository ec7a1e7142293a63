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

from rl_train.megatron.kernels.attention import AttentionKernel, HeadShape, choose_attention
from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.packed import PackedSequences
from rl_train.megatron.saved import recomputable_together, saving_recipes


class PackedSelfAttention(SelfAttention):
    """Megatron's self-attention for training on packed rows: no inference caches, no dense masks.

    Parameters, sharding and checkpoint names are those of the base class. Positions come from the row's own
    position ids, so the rotary embedding is applied to all sequences at once.

    Args:
        settings: of all layers.
    """

    def __init__(self, *args: Any, settings: LayerSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
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
        with saving_recipes(hidden_states):
            mixed, _ = self.linear_qkv(hidden_states)
        query, key, value = self._query_key_value(mixed, packed_seq_params, rotary_pos_emb)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            core_attention: Any = self.core_attention
            return core_attention(query, key, value, packed_seq_params)

        if self.checkpoint_core_attention and self.training:
            context = tensor_parallel.checkpoint(attend, False, query, key, value)
        else:
            with saving_recipes(query, key, value):
                context = attend(query, key, value)
        output, bias = self.linear_proj(context.reshape(context.shape[0], 1, -1))
        return output, bias

    def _query_key_value(self, mixed: Tensor, row: PackedSequences, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[T, H, D], [T, G, D] and [T, G, D] from the merged projection [T, 1, (H + 2 G) D]."""
        groups, dim = self.num_query_groups_per_partition, self.hidden_size_per_attention_head
        by_group = mixed.view(mixed.shape[0], groups, -1, dim)
        cos, sin = row.rotary(angles)
        split = self._settings.kernels.query_key_value
        query_norm: Any = self.q_layernorm
        key_norm: Any = self.k_layernorm

        def compute() -> tuple[Tensor, Tensor, Tensor]:
            return split(by_group, query_norm.weight, key_norm.weight, cos, sin, query_norm.eps)

        outputs = compute()
        if self._settings.recomputes_activations:
            recomputable_together(outputs, compute)
        return outputs


class PackedCoreAttention(torch.nn.Module):
    """Causal attention within each sequence of a packed row.

    With half-precision tensors on a GPU: the kernel that `--attention-backend` names. Otherwise: scaled dot-product
    attention on padded batches of sequences of similar length.
    """

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__()
        assert config.kv_channels is not None
        self.scale = 1.0 / math.sqrt(config.kv_channels)
        self.kernel: AttentionKernel | None = None
        if not config.use_cpu_initialization and config.params_dtype in (torch.bfloat16, torch.float16):
            split = config.tensor_model_parallel_size
            assert config.num_query_groups is not None
            shape = HeadShape(config.num_attention_heads // split, config.num_query_groups // split, config.kv_channels)
            self.kernel = choose_attention(config.attention_backend, shape, config.params_dtype)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences) -> Tensor:
        """[T, H, D] from queries [T, H, D], keys and values [T, G, D]."""
        if self.kernel is not None:
            return self.kernel.attend(query, key, value, packed, self.scale)
        return _padded(query, key, value, packed, self.scale)


def _padded(query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float) -> Tensor:
    """Padding stands at the end of each sequence, where the causal mask hides it from the tokens that count."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts: list[Tensor] = []
    batches = packed.dense_batches()
    for batch in batches:
        q, k, v = (x[batch.sources].transpose(1, 2) for x in (query, key, value))  # [B, H, L, D]
        attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        parts.append(attended.transpose(1, 2).flatten(0, 1)[batch.kept])
    order = torch.cat([batch.targets for batch in batches])
    return torch.cat(parts)[torch.argsort(order)]
