"""Whether a checkpoint is whole: every tensor can be read and has the checksum that was noted when it was written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rl_weights.checkpoint import Checkpoint, open_checkpoint
from rl_weights.errors import CheckpointError
from rl_weights.manifest import MANIFEST_FILE, ManifestTensor, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what is wrong with it."""

    num_tensors: int
    num_bytes: int
    has_manifest: bool
    """Whether checksums were compared; without, a tensor is only known to be readable."""
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_checkpoint(
    path: Path | str, *, require_finite: bool = False, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Reads every tensor and compares it with the manifest that conversions leave beside the weights.

    Args:
        path: a checkpoint of either format.
        require_finite: whether a NaN or an infinity is a problem.
        progress: told, after each tensor, how many of how many are read.

    Raises:
        CheckpointError: if it cannot even be opened.
    """
    checkpoint = open_checkpoint(path)
    manifest = read_manifest(checkpoint.path)
    expected = {tensor.name: tensor for tensor in manifest.tensors} if manifest else {}
    problems = [f"{name}: in {MANIFEST_FILE}, but not there" for name in expected if name not in checkpoint.specs]
    num_read_bytes = 0
    for index, name in enumerate(checkpoint.specs):
        tensor = _read(checkpoint, name, problems)
        if tensor is not None:
            num_read_bytes += tensor.nbytes
            if manifest is not None:
                problems += _compare(checkpoint, name, tensor, expected.get(name))
            if require_finite and tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
                problems.append(f"{name}: {int((~finite).sum())} values are NaN or infinite")
        if progress is not None:
            progress(index + 1, len(checkpoint.specs))
    return VerifyReport(
        num_tensors=len(checkpoint.specs),
        num_bytes=num_read_bytes,
        has_manifest=manifest is not None,
        problems=tuple(problems),
    )


def _read(checkpoint: Checkpoint, name: str, problems: list[str]) -> torch.Tensor | None:
    try:
        return checkpoint.read(name)
    except CheckpointError as error:
        problems.append(str(error))
        return None


def _compare(checkpoint: Checkpoint, name: str, tensor: torch.Tensor, expected: ManifestTensor | None) -> list[str]:
    if expected is None:
        return [f"{name}: not in {MANIFEST_FILE}"]
    actual = ManifestTensor.of(name, tensor)
    if actual == expected:
        return []
    where = f"{checkpoint.file_of(name)}: {name}"
    return [f"{where}: expected {_described(expected)}, got {_described(actual)}"]


def _described(tensor: ManifestTensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} with checksum {tensor.checksum}"
