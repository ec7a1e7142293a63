"""Megatron's transformer layer, whose norms take part in the residual sums."""

# pyright: standard
# Megatron-Core is annotated in part only.

from typing import Any

from megatron.core import tensor_parallel
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from rl_train.megatron.norm import RMSNorm
from rl_train.megatron.packed import PackedSequences


class PackedTransformerLayer(TransformerLayer):
    """Norm, attention, sum, norm, feed-forward, sum; the first sum and the norm after it are one kernel.

    Parameters, sharding and checkpoint names are those of the base class. There are no biases and no dropout, which the
    base class would add between the parts. The second sum stays with this layer: a layer's input is one tensor, of
    which recomputing layers and pipeline stages keep and send one.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        rotary_pos_emb: Tensor,
        packed_seq_params: PackedSequences,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        """[T, 1, hidden] in and out, and no context for the next layer."""
        given = [name for name, value in unused.items() if value is not None]
        assert not given, f"the layer does not take {given}"
        first: RMSNorm = self.input_layernorm  # pyright: ignore[reportAssignmentType]
        second: RMSNorm = self.pre_mlp_layernorm  # pyright: ignore[reportAssignmentType]
        normed, residual = first.beside_input(hidden_states)
        attended, _ = self.self_attention(
            normed, attention_mask, rotary_pos_emb=rotary_pos_emb, packed_seq_params=packed_seq_params
        )
        normed, residual = second.after_adding(attended, residual)
        feed_forward: Any = self.mlp
        if self.recompute_mlp:
            output, _ = tensor_parallel.checkpoint(feed_forward, False, normed)
        else:
            output, _ = feed_forward(normed)
        return residual + output, None
