"""Weights into the sharded model, from a Hugging Face folder or a folder of Megatron checkpoints."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from rl_data.json import JsonValue
from rl_weights.rules import TensorRule, rules_for
from safetensors import safe_open
from torch import Tensor

from rl_train.errors import TrainConfigError
from rl_train.megatron.checkpoint_folder import TRACKER, latest_checkpoint

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
    """
    if (folder / TRACKER).is_file():
        _load_torch_dist(model, folder)
    else:
        _load_hugging_face(model, folder, model_config)


def global_names(model: GPTModel) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters, with layers counted over all pipeline stages, as rl-weights' rules count them."""
    offset = get_transformer_layer_offset(model.config)

    def renamed(name: str) -> str:
        if not name.startswith(_LAYERS):
            return name
        number, rest = name.removeprefix(_LAYERS).split(".", 1)
        return f"{_LAYERS}{int(number) + offset}.{rest}"

    return {renamed(name): weight for name, weight in model.named_parameters()}


def rules_by_name(model_config: Mapping[str, JsonValue]) -> dict[str, TensorRule]:
    """rl-weights' rules by their Megatron names; the output layer of tied models is the embedding's."""
    rules = {rule.megatron_name: rule for rule in rules_for(model_config)}
    rules.setdefault(_OUTPUT, rules[_EMBEDDING])
    return rules


def _load_torch_dist(model: GPTModel, folder: Path) -> None:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None  # the tracker is there
    state = {"model": model.sharded_state_dict()}
    model.load_state_dict(dist_checkpointing.load(state, str(checkpoint))["model"])


@torch.no_grad()
def _load_hugging_face(model: GPTModel, folder: Path, model_config: Mapping[str, JsonValue]) -> None:
    rules = rules_by_name(model_config)
    rank, size = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    with _HuggingFaceFolder.open(folder) as tensors:
        for name, weight in global_names(model).items():
            rule = rules[name]
            whole = rule.to_megatron(tuple(tensors.read(hf_name) for hf_name in rule.hf_names))
            if name in (_EMBEDDING, _OUTPUT):
                whole = _with_padding_rows(whole, weight.shape[0] * size)
            part = rule.shard(whole, rank, size)
            if part.shape != weight.shape:
                raise TrainConfigError(
                    f"{folder}: expected {' and '.join(rule.hf_names)} to give {name} of shape {tuple(weight.shape)} "
                    f"on tensor-parallel rank {rank} of {size}, got {tuple(part.shape)}"
                )
            weight.copy_(part)


def _with_padding_rows(whole: Tensor, num_rows: int) -> Tensor:
    """The embedding with zero rows at the end, where the vocabulary does not split evenly over the ranks."""
    missing = num_rows - whole.shape[0]
    return whole if missing <= 0 else torch.cat([whole, whole.new_zeros(missing, *whole.shape[1:])])


class _HuggingFaceFolder:
    """Tensors of a model's safetensors files, read one by one."""

    def __init__(self, folder: Path, file_of: Mapping[str, str], files: contextlib.ExitStack) -> None:
        self._folder = folder
        self._file_of = file_of
        self._files = files
        self._handles: dict[str, safe_open] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator["_HuggingFaceFolder"]:
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        with contextlib.ExitStack() as files:
            if index.is_file():
                yield cls(folder, json.loads(index.read_text())["weight_map"], files)
            elif single.is_file():
                handle = files.enter_context(safe_open(single, framework="pt"))
                yield cls(folder, dict.fromkeys(handle.keys(), single.name), files)
            else:
                raise TrainConfigError(
                    f"{folder}: expected {single.name}, {index.name} or Megatron's {TRACKER}, found none of them"
                )

    def read(self, name: str) -> Tensor:
        """The whole tensor, on the CPU."""
        file = self._file_of.get(name)
        if file is None:
            raise TrainConfigError(f"{self._folder}: no tensor {name} among {len(self._file_of)}")
        if file not in self._handles:
            self._handles[file] = self._files.enter_context(safe_open(self._folder / file, framework="pt"))
        return self._handles[file].get_tensor(name)
