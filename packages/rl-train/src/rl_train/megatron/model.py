"""The model of one rank: Megatron's GPTModel with packed attention, giving log-probabilities."""

# pyright: standard
# Megatron-Core is annotated in part only.

import argparse
from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.training.argument_utils import core_transformer_config_from_args
from megatron.training.training import get_megatron_ddp_config
from torch import Tensor

from rl_train.errors import TrainConfigError
from rl_train.megatron.kernels import Kernels
from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.layer_spec import packed_layer_spec
from rl_train.megatron.logprobs import TokenLogprobs, token_logprobs
from rl_train.megatron.packed import PackedSequences
from rl_train.megatron.parallel import tensor_group
from rl_train.megatron.weight_gradient import provide_weight_gradient_kernels, settle_gradients

_ONE_ONLY = {
    "context_parallel_size": "--context-parallel-size",
    "expert_model_parallel_size": "--expert-model-parallel-size",
    "virtual_pipeline_model_parallel_size": "--num-layers-per-virtual-pipeline-stage",
}


class LogprobRequest(NamedTuple):
    """Which log-probabilities a forward pass has to give."""

    positions: Tensor
    """[N] positions of the row whose hidden state predicts the token that follows."""
    targets: Tensor
    """[N] ids of those tokens."""
    temperature: float
    needs_entropy: bool
    chunk_size: int
    vocab_size: int
    """Entries of the whole vocabulary, without padding rows."""
    kernels: Kernels
    known_gradient: Tensor | None
    """[N] what the loss gives back for the log-probabilities, where that is known before."""


def transformer_config(args: argparse.Namespace, kernels: Kernels) -> TransformerConfig:
    """Megatron's own configuration of the model. The only place that makes one.

    Raises:
        TrainConfigError: for a parallelism that the packed layers do not have.
    """
    for name, flag in _ONE_ONLY.items():
        if vars(args)[name] not in (None, 1):
            raise TrainConfigError(f"{flag}: expected 1, got {vars(args)[name]}: packed layers are not split that way")
    chosen = argparse.Namespace(**vars(args))
    # Loss weights hold the denominators already: gradients are summed over micro-batches and ranks, never averaged.
    chosen.calculate_per_token_loss = True
    chosen.finalize_model_grads_func = _finalize_gradients
    # Weights always come from a checkpoint.
    chosen.perform_initialization = False
    chosen.use_cpu_initialization = not torch.cuda.is_available()
    chosen.variable_seq_lengths = True
    # Plain kernels stay what autograd makes of torch's operations.
    chosen.gradient_accumulation_fusion = args.gradient_accumulation_fusion and kernels.name != "plain"
    if chosen.gradient_accumulation_fusion:
        provide_weight_gradient_kernels(kernels)
    return core_transformer_config_from_args(chosen)


def build_model(args: argparse.Namespace, settings: LayerSettings) -> GPTModel:
    """This rank's part of the model, its parameters allocated and not filled. Collective."""
    config = transformer_config(args, settings.kernels)
    layers: Any = packed_layer_spec(config, settings)
    model = GPTModel(
        config,
        layers,
        vocab_size=args.padded_vocab_size,
        max_sequence_length=args.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=not args.untie_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_percent=args.rotary_percent,
        rotary_base=args.rotary_base,
    )
    return model if config.use_cpu_initialization else model.cuda()


def wrap_model(args: argparse.Namespace, model: GPTModel) -> DistributedDataParallel:
    """The model with half precision, if it was asked for, and gradient buffers of the distributed optimizer."""
    chosen = argparse.Namespace(**vars(args))
    # The trainer looks at the gradient's norm and leaves out a step that is not finite, instead of ending the run.
    chosen.check_for_nan_in_loss_and_grad = False
    module = Float16Module(model.config, model) if args.bf16 else model
    return DistributedDataParallel(model.config, get_megatron_ddp_config(chosen), module)


def forward(
    model: torch.nn.Module,
    tokens: Tensor,
    row: PackedSequences,
    request: LogprobRequest,
) -> Tensor | tuple[Tensor, Tensor]:
    """(log-probabilities, entropy), [N] each, on the last pipeline stage; hidden states for the next stage elsewhere.

    Collective over the tensor-parallel ranks.

    Args:
        model: of this rank, wrapped or not.
        tokens: [T] ids of the packed row.
        row: where its sequences lie.
        request: what is wanted of it.
    """
    return model(
        tokens[None],
        row.position_ids[None],
        None,
        packed_seq_params=row,
        output_processor=_logprobs_of_hidden,
        output_processor_context=request,
    )


def _logprobs_of_hidden(
    *, hidden_states: Tensor, output_layer: Any, output_weight: Tensor | None, context: LogprobRequest, **_: Any
) -> TokenLogprobs:
    """Takes the place of Megatron's output layer, whose logits would be [T, vocabulary]."""
    group = tensor_group()
    if output_layer.sequence_parallel:
        hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden_states, tensor_parallel_output_grad=True)
    else:
        hidden = tensor_parallel.copy_to_tensor_model_parallel_region(hidden_states)
    weight: Any = output_layer.weight if output_weight is None else output_weight
    vocab_start = weight.shape[0] * parallel_state.get_tensor_model_parallel_rank()
    num_rows = min(weight.shape[0], context.vocab_size - vocab_start)
    assert num_rows > 0, "parse_megatron_args lets no rank have only padding"
    return token_logprobs(
        hidden.squeeze(1).index_select(0, context.positions),
        weight,
        context.targets,
        temperature=context.temperature,
        needs_entropy=context.needs_entropy,
        chunk_size=context.chunk_size,
        vocab_start=vocab_start,
        num_rows=num_rows,
        group=group,
        # Of Megatron's gradient buffer, which the wrapped model has.
        gradient_sum=weight.main_grad if hasattr(weight, "main_grad") else None,
        known_gradient=context.known_gradient,
        kernels=context.kernels,
    )


def _finalize_gradients(
    model: list[torch.nn.Module],
    _num_tokens: Tensor | None,
    pg_collection: ProcessGroupCollection,
    force_all_reduce: bool,
) -> None:
    """Sums gradients over the ranks. Megatron would divide by the number of tokens, which loss weights have done."""
    for one in model:
        settle_gradients(module_of(one))
    finalize_model_grads(model, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)


def module_of(model: torch.nn.Module) -> GPTModel:
    """The model under its wrappers."""
    while not isinstance(model, GPTModel):
        model = model.module  # pyright: ignore[reportAssignmentType]
    return model
