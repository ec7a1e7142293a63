"""Qwen3, dense: grouped-query attention with query/key norm, no biases; embeddings tied or not."""

from collections.abc import Iterator

from rl_weights.rules.model_shape import ModelShape
from rl_weights.rules.rule import TensorRule
from rl_weights.rules.table import gate_up, norm, qkv, row_parallel, vocabulary


def qwen3(shape: ModelShape) -> Iterator[TensorRule]:
    """The table of `Qwen3ForCausalLM`."""
    hidden, inner, ffn = shape.hidden, shape.num_heads * shape.head_dim, shape.ffn
    yield vocabulary("embedding.word_embeddings.weight", "model.embed_tokens.weight", shape, tied_to="lm_head.weight")
    for layer in range(shape.num_layers):
        ours, theirs = f"decoder.layers.{layer}", f"model.layers.{layer}"
        attention, self_attn = f"{ours}.self_attention", f"{theirs}.self_attn"
        yield norm(f"{ours}.input_layernorm.weight", f"{theirs}.input_layernorm.weight", hidden)
        yield qkv(f"{attention}.linear_qkv.weight", f"{self_attn}.{{}}_proj.weight", shape)
        yield norm(f"{attention}.q_layernorm.weight", f"{self_attn}.q_norm.weight", shape.head_dim)
        yield norm(f"{attention}.k_layernorm.weight", f"{self_attn}.k_norm.weight", shape.head_dim)
        yield row_parallel(f"{attention}.linear_proj.weight", f"{self_attn}.o_proj.weight", hidden, inner)
        yield norm(f"{ours}.pre_mlp_layernorm.weight", f"{theirs}.post_attention_layernorm.weight", hidden)
        yield gate_up(f"{ours}.mlp.linear_fc1.weight", f"{theirs}.mlp.{{}}_proj.weight", ffn, hidden)
        yield row_parallel(f"{ours}.mlp.linear_fc2.weight", f"{theirs}.mlp.down_proj.weight", hidden, ffn)
    yield norm("decoder.final_layernorm.weight", "model.norm.weight", hidden)
    if not shape.is_tied:
        yield vocabulary("output_layer.weight", "lm_head.weight", shape)
