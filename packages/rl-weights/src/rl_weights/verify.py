"""Whether a checkpoint is whole: everything can be read and has the checksum that was noted when it was written."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rl_weights.checkpoint import Checkpoint, open_checkpoint
from rl_weights.checksum import checksum
from rl_weights.errors import CheckpointError
from rl_weights.hf import HFCheckpoint
from rl_weights.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestBytes,
    ManifestTensor,
    entry_of_file,
    read_manifest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what is wrong with it."""

    num_tensors: int
    num_bytes: int
    has_manifest: bool
    """Whether checksums were compared; without, a tensor is only known to be readable."""
    is_manifest_of_all: bool
    """Whether they were also compared for what is not a tensor, which older manifests do not tell."""
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_checkpoint(
    path: Path | str, *, require_finite: bool = False, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Reads everything and compares it with the manifest that conversions leave beside the weights.

    Files that the manifest does not name were added later and are not looked at.

    Args:
        path: a checkpoint of either format.
        require_finite: whether a NaN or an infinity is a problem.
        progress: told, after each tensor, how many of how many are read.

    Raises:
        CheckpointError: for what is no checkpoint, or without what describes its tensors.
    """
    problems: list[str] = []
    checkpoint = open_checkpoint(path, problems=problems)
    manifest = read_manifest(checkpoint.path)
    expected: dict[str, list[ManifestTensor]] = {}
    for entry in manifest.tensors if manifest else ():
        expected.setdefault(entry.name, []).append(entry)
    missing = [name for name in expected if name not in checkpoint.specs]
    if problems and missing:
        problems.append(f"{len(missing)} tensors of {MANIFEST_FILE} were in files that cannot be read, or are missing")
    else:
        problems += [f"{name}: in {MANIFEST_FILE}, but not there" for name in missing]
    num_read_bytes = 0
    for index, name in enumerate(checkpoint.specs):
        tensor = _read(checkpoint, name, problems)
        if tensor is not None:
            num_read_bytes += tensor.nbytes
            if manifest is not None:
                problems += _compare(checkpoint, name, tensor, expected.get(name, []))
            if require_finite and tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
                problems.append(f"{name}: NaN or infinite values: {int((~finite).sum())}")
        if progress is not None:
            progress(index + 1, len(checkpoint.specs))
    if manifest is not None:
        problems += _compare_files(checkpoint.path, manifest)
        problems += _compare_objects(checkpoint, manifest)
    return VerifyReport(
        num_tensors=len(checkpoint.specs),
        num_bytes=num_read_bytes,
        has_manifest=manifest is not None,
        is_manifest_of_all=manifest is not None and manifest.files is not None,
        problems=tuple(problems),
    )


def _read(checkpoint: Checkpoint, name: str, problems: list[str]) -> torch.Tensor | None:
    try:
        return checkpoint.read(name)
    except CheckpointError as error:
        problems.append(str(error))
        return None


def _compare(checkpoint: Checkpoint, name: str, tensor: torch.Tensor, entries: list[ManifestTensor]) -> list[str]:
    if not entries:
        return [f"{name}: not in {MANIFEST_FILE}"]
    where = f"{checkpoint.file_of(name)}: {name}"
    problems: list[str] = []
    for entry in entries:
        actual = ManifestTensor.of(name, entry.box.of(tensor).contiguous() if entry.offset else tensor, entry.offset)
        if actual != entry:
            problems.append(f"{where}: expected {_described(entry)}, got {_described(actual)}")
    if not problems and sum(math.prod(entry.shape) for entry in entries) != tensor.numel():
        problems.append(f"{where}: {MANIFEST_FILE} knows only parts of it")
    return problems


def _compare_files(folder: Path, manifest: Manifest) -> list[str]:
    problems: list[str] = []
    for entry in manifest.files or ():
        file = folder / entry.name
        try:
            actual = entry_of_file(file) if file.is_file() else None
        except OSError as error:
            problems.append(f"{file}: {error}")
            continue
        if actual != entry:
            problems.append(f"{file}: expected {_described_bytes(entry)}, got {_described_bytes(actual)}")
    return problems


def _compare_objects(checkpoint: Checkpoint, manifest: Manifest) -> list[str]:
    problems: list[str] = []
    entries = manifest.objects or ()
    if isinstance(checkpoint, HFCheckpoint):  # the headers of files, of which those that cannot be read are known
        readable = {file.name for file in checkpoint.files.values()}
        entries = [entry for entry in entries if entry.name in readable]
    for entry in entries:
        try:
            file, content = checkpoint.read_object(entry.name)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        actual = ManifestBytes(entry.name, len(content), checksum(content))
        if actual != entry:
            expected, got = _described_bytes(entry), _described_bytes(actual)
            what = "its header" if entry.name == file.name else entry.name
            problems.append(f"{file}: {what}: expected {expected}, got {got}")
    return problems


def _described_bytes(entry: ManifestBytes | None) -> str:
    return "no such file" if entry is None else f"{entry.num_bytes} bytes with checksum {entry.checksum}"


def _described(tensor: ManifestTensor) -> str:
    where = "" if tensor.offset is None else f" at {list(tensor.offset)}"
    return f"{tensor.dtype} {list(tensor.shape)}{where} with checksum {tensor.checksum}"
