"""What every conversion counts and reports."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_weights.dtypes import num_bytes
from rl_weights.manifest import SCHEMA_VERSION, Manifest, ManifestBytes, ManifestTensor

if TYPE_CHECKING:
    import torch

type Progress = Callable[[int, int], None]
"""Called after each tensor with the bytes written so far and in all, from the thread that called the conversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What a conversion wrote."""

    num_tensors: int
    num_bytes: int
    seconds: float


class ConversionLog:
    """Notes every tensor that is written, for the manifest, the progress and the report."""

    def __init__(self, num_bytes: int, progress: Progress | None) -> None:
        self._started = time.monotonic()
        self._num_bytes = num_bytes
        self._num_written_bytes = 0
        self._progress = progress
        self._entries: list[ManifestTensor] = []

    @property
    def entries(self) -> tuple[ManifestTensor, ...]:
        """Every tensor or part so far."""
        return tuple(self._entries)

    def note(self, name: str, tensor: "torch.Tensor", offset: tuple[int, ...] | None = None) -> None:
        """Notes a contiguous tensor, or the part of it that starts at `offset`, that is about to be written.

        It computes a checksum, so it may be called in another thread than the writer's.
        """
        self._entries.append(ManifestTensor.of(name, tensor, offset))

    def advance(self, num_bytes: int) -> None:
        """Counts what has been written, and tells the progress."""
        self._num_written_bytes += num_bytes
        if self._progress is not None:
            self._progress(self._num_written_bytes, self._num_bytes)

    def take_over(self, entries: Sequence[ManifestTensor]) -> None:
        """Counts from now on what all ranks have written, of which this one's share is part."""
        self._entries = list(entries)
        self._num_written_bytes = sum(num_bytes(entry.dtype, entry.shape) for entry in entries)

    def manifest(self, files: Sequence[ManifestBytes], objects: Sequence[ManifestBytes] = ()) -> Manifest:
        """Every tensor so far, and what else was written."""
        return Manifest(SCHEMA_VERSION, self.entries, tuple(files), tuple(objects))

    def report(self) -> ConvertReport:
        """What was written, and the time since this log was made."""
        seconds = time.monotonic() - self._started
        num_tensors = len({entry.name for entry in self._entries})
        return ConvertReport(num_tensors=num_tensors, num_bytes=self._num_written_bytes, seconds=seconds)
