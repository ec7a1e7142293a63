"""An engine's own copy of weights that come as folders: whole, or what changed since the version before.

What a folder holds is described where it is written, in `rl_weights.sync.version_folder` and `rl_weights.sync.delta`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from rl_rollout.errors import EngineError
from rl_rollout.weights import TensorSpec, checksum, num_bytes_of

_SCHEMA = 1
_GAP_BYTES = 4
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]
    checksum: str
    num_changed: int | None = None


class _Bucket(msgspec.Struct, frozen=True):
    index: int
    num_bytes: int
    checksum: str
    tensors: tuple[_Tensor, ...]


class _Manifest(msgspec.Struct, frozen=True):
    schema: int
    stream: str
    kind: Literal["full", "delta"]
    version: int
    base: str | None
    deltas_follow: bool
    num_tensors: int
    num_buckets: int
    digest: str
    buckets: tuple[_Bucket, ...]


class CopiedVersion(NamedTuple):
    """Which weights a copy is of."""

    stream: str
    folder: str


class CopiedBucket(NamedTuple):
    """A bucket of the copy."""

    path: Path
    specs: Sequence[TensorSpec]
    num_bytes: int
    checksum: str
    is_held: bool
    """Whether it is the same in the version that the model holds."""


class WeightCopy:
    """Buckets in files, brought from version to version. What no delta can follow is read where it is, not copied.

    Args:
        who: name of the engine, for messages.
        folder: for the files; made when they come.
    """

    def __init__(self, who: str, folder: Path) -> None:
        self._who, self._folder = who, folder
        self._version: CopiedVersion | None = None
        self._entries: list[_Bucket] = []
        self._checksums: list[str] = []
        self._changed_in: list[int] = []
        """[buckets] number of the step that changed it last."""
        self._step_of: dict[CopiedVersion, int] = {}
        self._num_steps = 0
        self._is_copied = False
        """Whether the whole version was copied, because deltas may follow; else it is read where it is."""
        self._source = folder

    @property
    def version(self) -> CopiedVersion | None:
        """What the copy is of; None if it is of nothing whole."""
        return self._version

    def bring_to(self, source: Path, held: CopiedVersion | None) -> list[CopiedBucket]:
        """The buckets of the version in the folder `source`.

        Args:
            source: a whole version, or a delta beside the folders that it builds on.
            held: what the model holds.

        Raises:
            EngineError: naming the folder, if something is missing or is not what its checksum says.
        """
        steps = self._steps(source)
        self._version = None
        for folder, manifest in steps:
            self._take(folder, manifest)
        if steps:
            _, last = steps[-1]
            self._check(source, last)
            self._version = CopiedVersion(last.stream, source.name)
            self._step_of[self._version] = self._num_steps
        else:
            self._version = CopiedVersion(_read_manifest(self._who, source).stream, source.name)
        since = self._step_of.get(held, -1) if held is not None else -1
        return [
            CopiedBucket(
                self._file(entry),
                [(one.name, one.dtype, one.shape) for one in entry.tensors],
                entry.num_bytes,
                self._checksums[entry.index],
                is_held=since >= 0 and self._changed_in[entry.index] <= since,
            )
            for entry in self._entries
        ]

    def _steps(self, source: Path) -> list[tuple[Path, _Manifest]]:
        """The folders that lead from the copy to the version, or from a whole version if none does."""
        steps: list[tuple[Path, _Manifest]] = []
        folder = source
        while True:
            manifest = _read_manifest(self._who, folder)
            if self._version == CopiedVersion(manifest.stream, folder.name):
                return steps
            steps.insert(0, (folder, manifest))
            if manifest.base is None:
                return steps
            folder = folder.parent / Path(manifest.base).name

    def _take(self, folder: Path, manifest: _Manifest) -> None:
        self._num_steps += 1
        try:
            if manifest.kind == "full":
                self._take_whole(folder, manifest)
                return
            for entry in manifest.buckets:
                self._change(folder, entry)
                self._checksums[entry.index] = entry.checksum
                self._changed_in[entry.index] = self._num_steps
        except (OSError, ValueError, LookupError, zstandard.ZstdError) as error:
            raise EngineError(f"{self._who}: {folder}: {type(error).__name__}: {error}") from error

    def _take_whole(self, folder: Path, manifest: _Manifest) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._entries = list(manifest.buckets)
        self._checksums = [entry.checksum for entry in manifest.buckets]
        self._changed_in = [self._num_steps] * len(manifest.buckets)
        self._step_of.clear()
        self._is_copied, self._source = manifest.deltas_follow, folder
        if self._is_copied:
            self._folder.mkdir(parents=True, mode=0o700)
            for entry in manifest.buckets:
                shutil.copyfile(folder / _bucket_file(entry), self._file(entry))

    def _change(self, folder: Path, entry: _Bucket) -> None:
        """Applies a bucket's deltas to its file."""
        sizes = [_delta_bytes(one) for one in entry.tensors]
        packed = (folder / f"{entry.index:05d}.zst").read_bytes()
        deltas = zstandard.ZstdDecompressor().decompress(packed, max_output_size=sum(sizes))
        content = np.memmap(self._file(entry), np.uint8, "r+")
        place_of = _places(self._entries[entry.index])
        start = 0
        for one, size in zip(entry.tensors, sizes, strict=True):
            part = content[slice(*place_of[one.name])]
            _apply(part, deltas[start : start + size], one)
            if checksum(part) != one.checksum:
                raise ValueError(f"{one.name} is not what its checksum says")
            start += size

    def _check(self, folder: Path, manifest: _Manifest) -> None:
        """The loader checks each bucket again; here it is that these are the version's buckets."""
        if len(self._checksums) != manifest.num_buckets or _digest_of(self._checksums) != manifest.digest:
            raise EngineError(f"{self._who}: {folder}: version {manifest.version} is not what its digest says")

    def _file(self, entry: _Bucket) -> Path:
        return (self._folder if self._is_copied else self._source) / _bucket_file(entry)


def _read_manifest(who: str, folder: Path) -> _Manifest:
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(f"{who}: {folder}/manifest.json: {error}") from error
    if manifest.schema != _SCHEMA:
        raise EngineError(f"{who}: {folder}/manifest.json: expected schema {_SCHEMA}, got {manifest.schema}")
    return manifest


def _bucket_file(entry: _Bucket) -> str:
    return f"{entry.index:05d}.bin"


def _digest_of(checksums: Sequence[str]) -> str:
    return xxhash.xxh3_64_hexdigest("\n".join(checksums).encode())


def _places(entry: _Bucket) -> dict[str, tuple[int, int]]:
    """First byte of each tensor in its bucket, and the one after its last."""
    places: dict[str, tuple[int, int]] = {}
    start = 0
    for one in entry.tensors:
        stop = start + num_bytes_of((one.name, one.dtype, one.shape))
        places[one.name] = (start, stop)
        start = stop
    return places


def _width(one: _Tensor) -> int:
    return num_bytes_of((one.name, one.dtype, ()))


def _delta_bytes(one: _Tensor) -> int:
    return (one.num_changed or 0) * (_GAP_BYTES + _width(one))


def _apply(part: NDArray[np.uint8], delta: bytes, one: _Tensor) -> None:
    """Turns the bytes of a tensor into its next version, in place."""
    width = _width(one)
    if len(delta) != _delta_bytes(one):
        raise ValueError(f"{one.name}: {one.num_changed} changes take {_delta_bytes(one)} bytes, got {len(delta)}")
    border = (one.num_changed or 0) * _GAP_BYTES
    positions = np.cumsum(_from_planes(delta[:border], _GAP_BYTES), dtype=np.int64)
    aligned = part if part.ctypes.data % width == 0 else part.copy()
    elements = aligned.view(_UNSIGNED[width])
    if positions.size and positions[-1] >= elements.size:
        raise ValueError(f"{one.name}: a change at element {positions[-1]} of {elements.size}")
    elements[positions] ^= _from_planes(delta[border:], width)
    if aligned is not part:
        part[:] = aligned


def _from_planes(content: bytes, width: int) -> NDArray[np.unsignedinteger]:
    planes = np.frombuffer(content, np.uint8).reshape(width, -1)
    return np.ascontiguousarray(planes.T).view(_UNSIGNED[width]).reshape(-1)
