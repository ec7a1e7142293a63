"""Conversion between Hugging Face folders and Megatron's torch_dist checkpoints, one tensor at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rl_weights.checksum import checksum
from rl_weights.conversion import ConversionLog, ConvertReport, Progress
from rl_weights.dtypes import dtype_named
from rl_weights.errors import CheckpointError
from rl_weights.hf import HFCheckpoint, read_config
from rl_weights.hf_view import TorchDistAsHF
from rl_weights.hf_writer import DEFAULT_SHARD_BYTES, write_hf
from rl_weights.new_folder import new_folder
from rl_weights.protocols import TensorSpec
from rl_weights.rules import TensorRule, check_covered, rules_for
from rl_weights.torch_dist import TorchDistCheckpoint
from rl_weights.torch_dist_names import RELEASE, TRACKER_FILE, place_of, stored_name
from rl_weights.torch_dist_writer import TensorToStore, write_torch_dist

DEFAULT_VOCAB_MULTIPLE = 128
"""Megatron's own default of make-vocab-size-divisible-by."""


def convert_hf_to_torch_dist(
    hf_checkpoint: Path | str,
    save: Path | str,
    *,
    make_vocab_size_divisible_by: int = DEFAULT_VOCAB_MULTIPLE,
    tensor_model_parallel_size: int = 1,
    pipeline_model_parallel_size: int = 1,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes a torch_dist checkpoint (`save/release`) that Megatron loads at any parallel layout.

    Args:
        hf_checkpoint: model folder in Hugging Face format.
        save: folder to make; must not be there, or be empty.
        make_vocab_size_divisible_by: the embedding gets rows of zeros up to a multiple of this times the
            tensor-parallel size.
        tensor_model_parallel_size: a size that the model will be loaded at; it must divide the model.
        pipeline_model_parallel_size: the same; the layers must divide over the stages.
        progress: told of each tensor.

    Raises:
        CheckpointError: for a folder that is incomplete, damaged or not covered by the rules. `save` is as it was.

    Example:
        >>> convert_hf_to_torch_dist("Qwen3-4B", "Qwen3-4B_torch_dist").num_tensors
        290
    """
    source = HFCheckpoint(Path(hf_checkpoint))
    multiple = make_vocab_size_divisible_by * tensor_model_parallel_size
    rules = rules_for(source.config, vocab_multiple=multiple)
    check_covered(rules, source.specs, str(source.path))
    num_layers = _num_layers(rules)
    _check_divides(rules, num_layers, tensor_model_parallel_size, pipeline_model_parallel_size)
    _check_shapes(rules, source.specs)
    log = ConversionLog(sum(_stored_bytes(rule, source) for rule in rules), progress)
    tensors = [_to_store(rule, source, log) for rule in rules]
    with new_folder(Path(save)) as folder:
        (folder / RELEASE).mkdir()
        write_torch_dist(folder / RELEASE, tensors, num_layers, {"checkpoint_version": 3.0, "iteration": 0})
        log.manifest().write(folder / RELEASE)
        (folder / TRACKER_FILE).write_text(RELEASE)
    return log.report()


def convert_torch_dist_to_hf(
    load: Path | str,
    hf_checkpoint: Path | str,
    save_hf: Path | str,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes a model folder in Hugging Face format from a release or a training checkpoint of any parallel layout.

    Args:
        load: folder of Megatron's checkpoints, of which the latest is taken, or one checkpoint in it.
        hf_checkpoint: model folder from which config.json, tokenizer and the like are carried over.
        save_hf: folder to make; must not be there, or be empty.
        max_shard_bytes: size of a safetensors file at most, unless one tensor is larger.
        progress: told of each tensor.

    Raises:
        CheckpointError: for a checkpoint that is incomplete, damaged, or does not belong to that config.json.
            `save_hf` is as it was.
    """
    source = TorchDistAsHF(TorchDistCheckpoint(Path(load)), read_config(Path(hf_checkpoint)))
    return write_hf(
        save_hf,
        list(source.specs.values()),
        source.iter_tensors(),
        hf_checkpoint=hf_checkpoint,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )


def _num_layers(rules: Sequence[TensorRule]) -> int:
    layers = [place_of(rule.megatron_name).layer for rule in rules]
    return 1 + max(layer for layer in layers if layer is not None)


def _check_divides(rules: Sequence[TensorRule], num_layers: int, tp_size: int, pp_size: int) -> None:
    if tp_size < 1 or pp_size < 1:
        raise CheckpointError(f"parallel sizes: expected at least 1, got TP {tp_size} and PP {pp_size}")
    if num_layers % pp_size:
        raise CheckpointError(f"{num_layers} layers do not divide over {pp_size} pipeline stages")
    for rule in rules:
        rule.shard(torch.empty(rule.megatron_shape, device="meta"), 0, tp_size)


def _check_shapes(rules: Sequence[TensorRule], specs: Mapping[str, TensorSpec]) -> None:
    """Refuses wrong shapes and dtypes before anything is written."""
    for rule in rules:
        named = [specs[name] for name in rule.hf_names]
        rule.to_megatron([torch.empty(shape, dtype=dtype_named(d, n), device="meta") for n, d, shape in named])


def _dtype_of(rule: TensorRule, source: HFCheckpoint) -> torch.dtype:
    name, dtype, _ = source.specs[rule.hf_names[0]]
    return dtype_named(dtype, name)


def _stored_bytes(rule: TensorRule, source: HFCheckpoint) -> int:
    return torch.Size(rule.megatron_shape).numel() * _dtype_of(rule, source).itemsize


def _to_store(rule: TensorRule, source: HFCheckpoint, log: ConversionLog) -> TensorToStore:
    name = stored_name(rule.megatron_name)

    def make() -> torch.Tensor:
        parts = [source.read(hf_name) for hf_name in rule.hf_names]
        for tied in rule.tied_names:
            if tied in source.specs and checksum(source.read(tied)) != checksum(parts[0]):
                raise CheckpointError(
                    f"{source.files[tied]}: config.json ties {tied} to {rule.hf_names[0]}, but their values differ"
                )
        tensor = rule.to_megatron(parts).contiguous()
        log.note(name, tensor)
        return tensor

    return TensorToStore(
        place=place_of(name),
        dtype=_dtype_of(rule, source),
        shape=rule.megatron_shape,
        num_parts=rule.num_stored_parts,
        make=make,
    )
