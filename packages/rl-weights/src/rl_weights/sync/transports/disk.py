"""`disk`: each version is a folder that all sinks can read; whole, or what changed since the version before."""

import secrets
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from rl_weights.checksum import bucket_checksum
from rl_weights.dtypes import dtype_named, num_bytes
from rl_weights.errors import SyncError
from rl_weights.protocols import FolderSink, TensorSpec, WeightSink
from rl_weights.sync.delta import make_delta
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.report import PhaseSeconds
from rl_weights.sync.sink_worker import SinkCall, SinkWorker
from rl_weights.sync.transports.stream_folder import WRITER_FILE, StreamFolder
from rl_weights.sync.transports.transport import FilledBucket, submit_begin, submit_commit
from rl_weights.sync.version_folder import (
    MANIFEST,
    SCHEMA,
    BucketEntry,
    TensorEntry,
    VersionManifest,
    bucket_file,
    digest_of,
    folder_name,
)

type Mode = Literal["full", "delta"]

_ZSTD_LEVEL = 1
_DELTAS_PER_FULL = 50


class DiskTransport:
    """Writes a version's folder while the sinks still serve, then has them load it.

    Args:
        folder: on a disk that the machines of all engines share; each stream of versions has a folder of its own in it.
        mode: "delta" writes only what changed since the version before, which it keeps in host memory to compare; the
            first version, and every `deltas_per_full` after it, is whole.
        deltas_per_full: how many deltas follow a whole version. A sink that missed some reads those, or begins with
            the whole one.
        owner: what is the same for this writer and those that follow it, such as the folder of a run: what they left
            that were killed is removed by the next one of the same owner, or on the same machine.
    """

    def __init__(
        self,
        folder: Path,
        mode: Mode = "full",
        *,
        deltas_per_full: int = _DELTAS_PER_FULL,
        owner: str | None = None,
    ) -> None:
        self.name = f"disk ({mode})"
        self._mode: Mode = mode
        self._deltas_per_full = deltas_per_full
        self._stream = secrets.token_hex(8)
        self._stream_folder = StreamFolder(folder.absolute(), self._stream, owner)
        self._folder = self._stream_folder.path
        self._held: list[NDArray[np.uint8]] = []
        """[buckets] the version written last, if deltas are to be made of the next."""
        self._checksums: list[str] = []
        """[buckets] of the version written last or being written."""
        self._chain: list[str] = []
        """Folders that make up the version written last: a whole one and the deltas after it."""
        self._num_written = 0
        self._is_doubted = False
        """Whether a sink could not load the chain's last version, so that the next one stands by itself."""
        self._writing: _Writing | None = None
        """Still there at the next `begin` if the source or the disk failed: what is held is then no version's."""
        self._clock = PhaseSeconds()
        self._moved_bytes = 0

    def bucket_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """See `Transport`."""
        return torch.device("cpu")

    def begin(self, version: int, plan: SyncPlan, workers: Sequence[SinkWorker]) -> None:
        """See `Transport`."""
        is_held_whole = self._writing is None and len(self._held) == len(plan.buckets)
        can_follow = is_held_whole and not self._is_doubted and len(self._chain) <= self._deltas_per_full
        kind: Mode = "delta" if can_follow else "full"
        self._is_doubted = False
        self._clock = PhaseSeconds()
        if kind == "full":
            self._held, self._checksums = [], []
        self._num_written += 1
        base = self._chain[-1] if kind == "delta" else None
        folder = self._folder / folder_name(self._num_written, kind)
        with _named(folder, version):
            self._stream_folder.make()
            self._writing = _Writing(folder, kind, version, base)

    def send(self, filled: FilledBucket, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """See `Transport`. The bucket is on the disk when this returns."""
        assert self._writing is not None, "begin comes first"
        with self._clock.phase("write"), _named(self._writing.folder, self._writing.version):
            content = filled.buffer.numpy()
            if self._writing.kind == "full":
                self._writing.write_whole(filled, content)
                self._checksums.append(filled.checksum)
                if self._mode == "delta":
                    self._held.append(content.copy())
            elif filled.checksum != self._checksums[filled.index]:
                self._writing.write_delta(filled, self._held[filled.index], content)
                self._checksums[filled.index] = filled.checksum
                self._held[filled.index][:] = content
        return []

    def commit(self, version: int, num_tensors: int, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """See `Transport`."""
        writing = self._writing
        assert writing is not None, "begin comes first"
        with self._clock.phase("write"), _named(writing.folder, version):
            self._moved_bytes = writing.finish(
                self._stream, num_tensors, self._checksums, deltas_follow=self._mode == "delta"
            )
            self._chain = [writing.folder.name] if writing.kind == "full" else [*self._chain, writing.folder.name]
            self._writing = None
            self._remove_others()
        submit_begin(version, workers)
        for worker in workers:
            worker.submit(
                "bucket",
                f"load_version {writing.folder.name}",
                partial(self._load_version, worker.sink, str(writing.folder)),
            )
        return submit_commit(version, num_tensors, workers)

    def moved_bytes(self) -> int:
        """See `Transport`."""
        return self._moved_bytes

    def write_seconds(self) -> float:
        """See `Transport`."""
        return self._clock["write"]

    def close(self) -> None:
        """Removes this stream's folder."""
        self._held, self._checksums, self._chain = [], [], []
        self._stream_folder.remove()

    def _load_version(self, sink: WeightSink, folder: str) -> None:
        if not isinstance(sink, FolderSink):
            raise SyncError(f"{type(sink).__name__} has no load_version, so it cannot take weights from a folder")
        try:
            sink.load_version(folder)
        except Exception:
            self._is_doubted = True
            raise

    def _remove_others(self) -> None:
        """Removes versions that nobody needs any more, and what a publish that failed left half written."""
        for entry in self._folder.iterdir():
            if entry.name not in self._chain and entry.name != WRITER_FILE:
                shutil.rmtree(entry, ignore_errors=True)


class _Writing:
    """A version's folder before it is whole."""

    def __init__(self, folder: Path, kind: Mode, version: int, base: str | None) -> None:
        self.folder = folder
        self.kind: Mode = kind
        self.version = version
        self._base = base
        self._beside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(self._beside, ignore_errors=True)
        self._beside.mkdir(parents=True, mode=0o700)
        self._entries: list[BucketEntry] = []
        self._num_bytes = 0

    def write_whole(self, filled: FilledBucket, content: NDArray[np.uint8]) -> None:
        tensors = tuple(
            TensorEntry(name, dtype, shape, bucket_checksum(filled.buffer[part]))
            for part, (name, dtype, shape) in _parts(filled.bucket.specs)
        )
        self._write(filled, memoryview(content), tensors)

    def write_delta(self, filled: FilledBucket, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
        tensors: list[TensorEntry] = []
        pieces: list[bytes] = []
        for part, (name, dtype, shape) in _parts(filled.bucket.specs):
            delta = make_delta(before[part], after[part], dtype_named(dtype, name).itemsize)
            if delta.num_changed:
                checksum = bucket_checksum(filled.buffer[part])
                tensors.append(TensorEntry(name, dtype, shape, checksum, delta.num_changed))
                pieces.append(delta.content)
        packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(pieces))
        self._write(filled, packed, tuple(tensors))

    def finish(self, stream: str, num_tensors: int, checksums: list[str], *, deltas_follow: bool) -> int:
        """Puts the folder in its place; returns the bytes of its files."""
        manifest = VersionManifest(
            schema=SCHEMA,
            stream=stream,
            kind=self.kind,
            version=self.version,
            base=self._base,
            deltas_follow=deltas_follow,
            num_tensors=num_tensors,
            num_buckets=len(checksums),
            digest=digest_of(checksums),
            buckets=tuple(self._entries),
        )
        encoded = msgspec.json.encode(manifest)
        (self._beside / MANIFEST).write_bytes(encoded)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._beside.rename(self.folder)
        return self._num_bytes + len(encoded)

    def _write(self, filled: FilledBucket, content: bytes | memoryview, tensors: tuple[TensorEntry, ...]) -> None:
        (self._beside / bucket_file(filled.index, self.kind)).write_bytes(content)
        self._num_bytes += len(content)
        self._entries.append(BucketEntry(filled.index, filled.bucket.num_bytes, filled.checksum, tensors))


@contextmanager
def _named(folder: Path, version: int) -> Generator[None]:
    """Names the folder where the disk refuses something."""
    try:
        yield
    except OSError as error:
        raise SyncError(f"{folder}: version {version} not written: {error}") from error


def _parts(specs: Sequence[TensorSpec]) -> Iterator[tuple[slice, TensorSpec]]:
    """Where each tensor lies in its bucket."""
    start = 0
    for spec in specs:
        size = num_bytes(spec[1], spec[2])
        yield slice(start, start + size), spec
        start += size
