"""Megatron flags that do here what they say, and those of which only some values do.

Plain names: importing this imports nothing else. A flag of Megatron's parser stands either in `HONOURED` (which holds
the flags of `SHAPE_FLAGS` and `LIMITED` too) or in `flags_refused.REFUSED`.
"""

from typing import NamedTuple

_SHAPE = """
    add-qkv-bias disable-bias-linear ffn-hidden-size group-query-attention hidden-size kv-channels
    max-position-embeddings norm-epsilon normalization num-attention-heads num-layers num-query-groups
    position-embedding-type qk-layernorm rotary-base rotary-percent swiglu untie-embeddings-and-output-weights
    use-rotary-position-embeddings vocab-size
"""

_FREE = """
    adam-beta1 adam-beta2 adam-eps bf16 clip-grad end-weight-decay lr lr-decay-iters lr-decay-style lr-warmup-fraction
    lr-warmup-init lr-warmup-iters lr-wsd-decay-iters lr-wsd-decay-style make-vocab-size-divisible-by min-lr
    no-gradient-accumulation-fusion pipeline-model-parallel-size recompute-activations
    recompute-granularity recompute-method recompute-modules recompute-num-layers seed sequence-parallel
    start-weight-decay tensor-model-parallel-size weight-decay weight-decay-incr-style
"""

SHAPE_FLAGS: frozenset[str] = frozenset(f"--{name}" for name in _SHAPE.split())
"""Flags that describe the model. config.json decides; a flag may repeat what it says."""


class Limit(NamedTuple):
    """What a flag may be here, and why nothing else."""

    dest: str
    """Name of the value in Megatron's namespace."""
    value: bool | int | float | str
    """The value that is used, whether the flag is given or not."""
    reason: str
    also: tuple[str, ...] = ()
    """Other values that mean the same here, for enumerations by their name."""


LIMITED: dict[str, Limit] = {
    "--accumulate-allreduce-grads-in-fp32": Limit(
        "accumulate_allreduce_grads_in_fp32", True, "gradients are summed in float32 at every precision"
    ),
    "--attention-backend": Limit(
        "attention_backend",
        "auto",
        "attention over packed sequences is FlashAttention on GPUs (flash: torch's, auto: the newest), SDPA on CPUs",
        also=("flash",),
    ),
    "--attention-dropout": Limit(
        "attention_dropout", 0.0, "with dropout, trainer and engine would disagree on log-probabilities"
    ),
    "--attention-softmax-in-fp32": Limit(
        "attention_softmax_in_fp32", True, "the attention kernels have no other softmax"
    ),
    "--ckpt-format": Limit("ckpt_format", "torch_dist", "checkpoints are written in one format"),
    "--context-parallel-size": Limit("context_parallel_size", 1, "context parallelism is not offered"),
    "--expert-model-parallel-size": Limit("expert_model_parallel_size", 1, "mixture-of-experts models are not offered"),
    "--expert-tensor-parallel-size": Limit(
        "expert_tensor_parallel_size", 1, "mixture-of-experts models are not offered"
    ),
    "--hidden-dropout": Limit(
        "hidden_dropout", 0.0, "with dropout, trainer and engine would disagree on log-probabilities"
    ),
    "--no-bias-dropout-fusion": Limit(
        "bias_dropout_fusion", False, "there is no bias and no dropout, so adding the residual is one kernel as it is"
    ),
    "--no-bias-swiglu-fusion": Limit(
        "bias_swiglu_fusion", False, "there is no bias, and --trainer-kernels says how SwiGLU is computed"
    ),
    "--no-masked-softmax-fusion": Limit(
        "masked_softmax_fusion", False, "the fusion is for dense masks; sequences are packed"
    ),
    "--no-persist-layer-norm": Limit("no_persist_layer_norm", True, "the persistent kernel needs APEX"),
    "--no-rope-fusion": Limit("apply_rope_fusion", False, "the fusion needs Transformer Engine"),
    "--optimizer": Limit("optimizer", "adam", "the optimizer is Adam with decoupled weight decay"),
    "--transformer-impl": Limit("transformer_impl", "local", "Transformer Engine is not used"),
    "--use-distributed-optimizer": Limit(
        "use_distributed_optimizer", True, "the optimizer's state is always sharded over the data-parallel ranks"
    ),
    "--use-flash-attn": Limit("use_flash_attn", True, "attention on GPUs is always the flash kernel"),
    "--use-mcore-models": Limit("deprecated_use_mcore_models", True, "there are no other models"),
}
"""Flags with one meaning here: giving it explicitly is fine, giving another is an error."""

HONOURED: frozenset[str] = SHAPE_FLAGS | frozenset(f"--{name}" for name in _FREE.split()) | LIMITED.keys()
"""Every Megatron flag that may be given."""
