"""Which modules a transformer layer is made of."""

from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from rl_train.megatron.attention import PackedCoreAttention, PackedSelfAttention
from rl_train.megatron.norm import RMSNorm


def packed_layer_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Megatron's local layers of this pipeline stage, with our packed attention and RMSNorm.

    Parameter names are those of Megatron's local specification, which rl-weights' rules and its checkpoints use.
    """
    layer: Any = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    modules = layer.submodules
    modules.input_layernorm = RMSNorm
    modules.pre_mlp_layernorm = RMSNorm
    attention = modules.self_attention
    attention.module = PackedSelfAttention
    attention.submodules.core_attention = PackedCoreAttention
    if config.qk_layernorm:
        attention.submodules.q_layernorm = RMSNorm
        attention.submodules.k_layernorm = RMSNorm
    num_layers = get_num_layers_to_build(config)
    return TransformerBlockSubmodules(
        layer_specs=[ModuleSpec(module=layer.module, submodules=modules) for _ in range(num_layers)],
        layer_norm=RMSNorm,
    )
