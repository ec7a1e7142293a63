"""What a checkpoint holds, from its headers alone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rl_weights.checkpoint import Checkpoint, open_checkpoint
from rl_weights.dtypes import num_bytes
from rl_weights.hf import HFCheckpoint
from rl_weights.manifest import MANIFEST_FILE
from rl_weights.torch_dist.names import is_of_model


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
class Inspection:
    """What a checkpoint holds."""

    path: str
    """Of the checkpoint itself, where a folder of several was given."""
    format: Literal["hf", "torch_dist"]
    architecture: str | None
    """From config.json; None for torch_dist."""
    iteration: int | None
    """Of a training checkpoint; None for a release and for a model folder."""
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


def _architecture(checkpoint: HFCheckpoint) -> str | None:
    architectures = checkpoint.config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None
