"""Weights into the sharded model, from a Hugging Face folder or a folder of Megatron checkpoints."""

# pyright: standard
# Megatron-Core is annotated in part only.

from collections.abc import Mapping
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError
from rl_train.megatron.checkpoint_folder import TRACKER, latest_checkpoint
from rl_train.megatron.torch_dist import load_torch_dist
from rl_weights import CheckpointError, HFCheckpoint
from rl_weights.rules import TensorRule, rules_for

_EMBEDDING, _OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"
_LAYERS = "decoder.layers."


def load_weights(model: GPTModel, folder: Path, model_config: Mapping[str, JsonValue]) -> None:
    """Fills every parameter of this rank's model, reading only the tensors that this rank holds a part of. Collective.

    Args:
        model: without its wrappers.
        folder: a Hugging Face folder with safetensors, or one with Megatron checkpoints and a tracker file.
        model_config: the model's config.json.

    Raises:
        TrainConfigError: if the folder is neither, or lacks a tensor or has it in another shape.
        CheckpointError: if a Megatron checkpoint's metadata are damaged or more than metadata.
    """
    if (folder / TRACKER).is_file():
        _load_torch_dist(model, folder)
        return
    try:
        _load_hugging_face(model, folder, model_config)
    except CheckpointError as error:
        raise TrainConfigError(f"{error} (nor is there Megatron's {TRACKER})") from error


def global_names(model: GPTModel) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters, with layers counted over all pipeline stages, as rl-weights' rules count them."""
    offset = get_transformer_layer_offset(model.config)

    def renamed(name: str) -> str:
        if not name.startswith(_LAYERS):
            return name
        number, rest = name.removeprefix(_LAYERS).split(".", 1)
        return f"{_LAYERS}{int(number) + offset}.{rest}"

    return {renamed(name): weight for name, weight in model.named_parameters()}


def rules_of(model: GPTModel, model_config: Mapping[str, JsonValue]) -> tuple[TensorRule, ...]:
    """rl-weights' rules, with the vocabulary padded as in this model."""
    return rules_for(model_config, vocab_multiple=model.vocab_size)


def _load_torch_dist(model: GPTModel, folder: Path) -> None:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None  # the tracker is there
    state = {"model": model.sharded_state_dict()}
    model.load_state_dict(load_torch_dist(state, checkpoint)["model"])


@torch.no_grad()
def _load_hugging_face(model: GPTModel, folder: Path, model_config: Mapping[str, JsonValue]) -> None:
    rules = {rule.megatron_name: rule for rule in rules_of(model, model_config)}
    # The last pipeline stage of a tied model has an output layer of its own.
    rules.setdefault(_OUTPUT, rules[_EMBEDDING])
    rank, size = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    checkpoint = HFCheckpoint(folder)
    for name, weight in global_names(model).items():
        rule = rules[name]
        missing = [hf_name for hf_name in rule.hf_names if hf_name not in checkpoint.specs]
        if missing:
            raise TrainConfigError(f"{folder}: no tensor {missing[0]} among its {len(checkpoint.specs)}")
        whole = rule.to_megatron([checkpoint.read(hf_name) for hf_name in rule.hf_names])
        weight.copy_(rule.shard(whole, rank, size))
