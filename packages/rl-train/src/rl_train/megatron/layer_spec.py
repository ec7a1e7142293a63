"""Which modules a transformer layer is made of."""

from functools import partial
from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from rl_train.megatron.attention import PackedCoreAttention, PackedSelfAttention
from rl_train.megatron.layer import PackedTransformerLayer
from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.mlp import SwiGLUMLP
from rl_train.megatron.norm import RMSNorm


def packed_layer_spec(config: TransformerConfig, settings: LayerSettings) -> TransformerBlockSubmodules:
    """Megatron's local layers of this pipeline stage, with our packed attention, SwiGLU and RMSNorm.

    Parameter names are those of Megatron's local specification, which rl-weights' rules and its checkpoints use.
    """
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    norm = partial(RMSNorm, settings=settings)
    modules: Any = layer.submodules
    modules.input_layernorm = norm
    modules.pre_mlp_layernorm = norm
    modules.mlp = partial(_mlp, linear=modules.mlp.keywords["submodules"], settings=settings)
    attention = modules.self_attention
    attention.module = PackedSelfAttention
    attention.params = {**attention.params, "settings": settings}
    attention.submodules.core_attention = PackedCoreAttention
    attention.submodules.q_layernorm = norm
    attention.submodules.k_layernorm = norm
    num_layers = get_num_layers_to_build(config)
    return TransformerBlockSubmodules(
        layer_specs=[ModuleSpec(module=PackedTransformerLayer, submodules=modules) for _ in range(num_layers)],
        layer_norm=norm,
    )


def _mlp(*, linear: Any, settings: LayerSettings, config: TransformerConfig, pg_collection: Any, **_: Any) -> SwiGLUMLP:
    """The block as Megatron's layer asks for it."""
    return SwiGLUMLP(
        config=config,
        submodules=linear,
        tp_group=pg_collection.tp,
        ffn_hidden_size=config.ffn_hidden_size,
        settings=settings,
    )
