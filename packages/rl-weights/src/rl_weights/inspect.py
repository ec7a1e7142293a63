"""What a checkpoint holds, from its headers alone."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rl_weights.checkpoint import Checkpoint, open_checkpoint
from rl_weights.dtypes import num_bytes
from rl_weights.hf import HFCheckpoint
from rl_weights.manifest import MANIFEST_FILE
from rl_weights.torch_dist.names import expert_of, is_of_model, layer_of

if TYPE_CHECKING:
    from rl_weights.torch_dist.reader import TorchDistCheckpoint

_SLICED = "self_attention.linear_proj.weight"
"""A tensor that every tensor-parallel rank holds one part of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSummary:
    """One tensor."""

    name: str
    """In torch_dist the stored name (see `torch_dist.names`)."""
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    num_parts: int
    """Pieces in which it is saved."""
    is_of_model: bool
    """False for optimizer state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLayout:
    """How a torch_dist checkpoint is cut, as its parts and files show it; it can be loaded at any layout."""

    tensor: int
    """Parts along which tensor-parallel ranks cut a projection."""
    pipeline: int
    """Groups of files that share no layer: the pipeline stages, if each rank wrote a file."""
    expert: int
    """Groups of files that share no expert of a layer: the expert-parallel ranks; 1 without experts."""
    num_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a checkpoint holds."""

    path: str
    """Of the checkpoint itself, where a folder of several was given."""
    format: Literal["hf", "torch_dist"]
    architecture: str | None
    """From config.json; None for torch_dist."""
    iteration: int | None
    """Of a training checkpoint; None for a release and for a model folder."""
    layout: SavedLayout | None
    """None for a model folder."""
    num_parameters: int
    num_model_bytes: int
    num_other_bytes: int
    """Optimizer state and the like."""
    has_manifest: bool
    """Whether `verify` can compare checksums."""
    tensors: tuple[TensorSummary, ...]


def inspect_checkpoint(path: Path | str) -> Inspection:
    """What the checkpoint in that folder holds.

    Raises:
        CheckpointError: if it is neither format or its files are damaged.
    """
    checkpoint = open_checkpoint(path)
    tensors = tuple(_summary(checkpoint, name) for name in checkpoint.specs)
    is_hf = isinstance(checkpoint, HFCheckpoint)
    return Inspection(
        path=str(checkpoint.path),
        format="hf" if is_hf else "torch_dist",
        architecture=_architecture(checkpoint) if is_hf else None,
        iteration=None if is_hf else checkpoint.iteration,
        layout=None if is_hf else _layout(checkpoint),
        num_parameters=sum(math.prod(tensor.shape) for tensor in tensors if tensor.is_of_model),
        num_model_bytes=sum(tensor.num_bytes for tensor in tensors if tensor.is_of_model),
        num_other_bytes=sum(tensor.num_bytes for tensor in tensors if not tensor.is_of_model),
        has_manifest=(checkpoint.path / MANIFEST_FILE).is_file(),
        tensors=tensors,
    )


def _summary(checkpoint: Checkpoint, name: str) -> TensorSummary:
    _, dtype, shape = checkpoint.specs[name]
    is_hf = isinstance(checkpoint, HFCheckpoint)
    return TensorSummary(
        name=name,
        dtype=dtype,
        shape=shape,
        num_bytes=num_bytes(dtype, shape),
        num_parts=1 if is_hf else checkpoint.num_parts(name),
        is_of_model=is_hf or is_of_model(name),
    )


def _layout(checkpoint: "TorchDistCheckpoint") -> SavedLayout:
    names = [name for name in checkpoint.specs if is_of_model(name)]
    files: dict[int, set[str]] = {}
    files_of_expert: dict[int, set[str]] = {}
    first_layer_with_experts = min((layer_of(name) or 0 for name in names if expert_of(name) is not None), default=None)
    for name in names:
        layer, expert = layer_of(name), expert_of(name)
        if layer is not None:
            files.setdefault(layer, set()).update(checkpoint.file_names(name))
        if expert is not None and layer == first_layer_with_experts:
            files_of_expert.setdefault(expert, set()).update(checkpoint.file_names(name))
    return SavedLayout(
        tensor=max((checkpoint.num_parts(name) for name in names if name.endswith(_SLICED)), default=1),
        pipeline=_num_groups(files.values()),
        expert=_num_groups(files_of_expert.values()),
        num_files=len({file for name in names for file in checkpoint.file_names(name)}),
    )


def _num_groups(sets: Collection[set[str]]) -> int:
    """Groups into which the sets fall if those that share an element belong together; at least 1."""
    groups: list[set[str]] = []
    for one in sets:
        touching = [group for group in groups if group & one]
        groups = [group for group in groups if not group & one] + [one.union(*touching)]
    return max(len(groups), 1)


def _architecture(checkpoint: HFCheckpoint) -> str | None:
    architectures = checkpoint.config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None
