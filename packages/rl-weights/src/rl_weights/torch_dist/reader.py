"""Checkpoints in Megatron's torch_dist format, read tensor by tensor without Megatron."""

import itertools
import json
import math
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

from rl_weights.dtypes import dtype_name
from rl_weights.errors import CheckpointError
from rl_weights.protocols import TensorSpec
from rl_weights.rules.box import Box
from rl_weights.torch_dist.names import METADATA_FILE, RELEASE, TRACKER_FILE, Place, name_of_row, num_row_dims
from rl_weights.torch_dist.stored_tensor import stored_tensor

_UNPICKLING_ERRORS = (
    pickle.UnpicklingError, AssertionError, EOFError, AttributeError, IndexError, KeyError, OverflowError, TypeError,
    ValueError,
)  # fmt: skip
"""What unpickling damaged content ends in."""


class TorchDistCheckpoint:
    """The tensors of one checkpoint. Nothing but the metadata is read before it is asked for.

    Args:
        path: the folder that holds `latest_checkpointed_iteration.txt`, or one checkpoint in it (`release`,
            `iter_0000123`).

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = _checkpoint_folder(path)
        self._metadata = _read_metadata(self.path)
        self.specs: dict[str, TensorSpec] = {}
        """Name, dtype and shape of every tensor by its stored name (see `torch_dist.names`), optimizer state too."""
        self._places: dict[str, Place] = {}
        self._chunks: dict[str, dict[tuple[int, ...], list[ChunkStorageMetadata]]] = {}
        for key, entry in self._metadata.state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata):
                self._add(key, dtype_name(entry.properties.dtype), tuple(entry.size))

    @property
    def iteration(self) -> int | None:
        """Training iterations behind it; None for a release."""
        match = re.fullmatch(r"iter_(\d+)", self.path.name)
        return int(match[1]) if match else None

    def read(self, name: str, box: Box | None = None) -> torch.Tensor:
        """The tensor of that stored name, whatever parallel layout it was saved from.

        Args:
            name: one of `specs`.
            box: the part of it that is wanted; all of it if None. What lies in one piece is a view of that piece, which
                is a mapping of the file or a copy (see `stored_tensor`); what lies in several is copied.

        Raises:
            CheckpointError: naming the file, if a part of it is missing, truncated or damaged.
        """
        wanted = box or Box.whole(self.specs[name][2])
        key, rows = self._places[name]
        joined: torch.Tensor | None = None
        num_filled = 0
        for chunk in self._chunks_of(name):
            part = Box(tuple(chunk.offsets[len(rows) :]), tuple(chunk.sizes[len(rows) :]))
            common = part.overlap(wanted)
            if common is None:
                continue
            piece = common.within(part).of(self._read_rows(key, chunk, rows))
            if common == wanted:
                return piece
            if joined is None:
                joined = torch.empty(wanted.shape, dtype=self._entry(key).properties.dtype)
            common.within(wanted).of(joined).copy_(piece)
            num_filled += math.prod(common.shape)
        if joined is None:
            joined = torch.empty(wanted.shape, dtype=self._entry(key).properties.dtype)
        if num_filled != joined.numel():
            raise CheckpointError(f"{self.path}: {name}: {num_filled} of {joined.numel()} elements are there")
        return joined

    def iter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, in the order of `specs`."""
        return ((name, self.read(name)) for name in self.specs)

    def read_object(self, key: str) -> tuple[Path, bytes]:
        """The bytes of what is stored under a key and is not a tensor, and the file in which they lie.

        Raises:
            CheckpointError: naming the file, if they are missing or truncated.
        """
        stored = self._metadata.storage_data.get(MetadataIndex(key))
        if stored is None:
            raise CheckpointError(f"{self.path / METADATA_FILE}: {key}: no file for it")
        file = self.path / Path(stored.relative_path).name
        try:
            with file.open("rb") as stream:
                stream.seek(stored.offset)
                content = stream.read(min(stored.length, file.stat().st_size))
        except OSError as error:
            raise CheckpointError(f"{file}: {key}: {error}") from error
        if len(content) != stored.length:
            raise CheckpointError(f"{file}: truncated: {key} at {stored.offset} needs {stored.length} bytes")
        return file, content

    def file_of(self, name: str) -> str:
        """The files in which the tensor of that stored name lies."""
        return ", ".join(str(self.path / file) for file in self.file_names(name))

    def file_names(self, name: str) -> tuple[str, ...]:
        """Names of the files in which the tensor of that stored name lies."""
        key = self._places[name].key
        stored = [self._metadata.storage_data.get(MetadataIndex(key, chunk.offsets)) for chunk in self._chunks_of(name)]
        return tuple(dict.fromkeys(entry.relative_path for entry in stored if entry is not None))

    def num_parts(self, name: str) -> int:
        """Pieces in which the tensor of that stored name is saved: its tensor-parallel size, mostly."""
        return len(self._chunks_of(name))

    def _add(self, key: str, dtype: str, shape: tuple[int, ...]) -> None:
        num_rows = num_row_dims(key)
        for rows in itertools.product(*(range(size) for size in shape[:num_rows])):
            name = name_of_row(key, rows)
            self._places[name], self.specs[name] = Place(key, rows), (name, dtype, shape[num_rows:])

    def _chunks_of(self, name: str) -> list[ChunkStorageMetadata]:
        key, rows = self._places[name]
        if key not in self._chunks:
            self._chunks[key] = _by_rows(self._entry(key).chunks, len(rows))
        return self._chunks[key].get(rows, [])

    def _entry(self, key: str) -> TensorStorageMetadata:
        entry = self._metadata.state_dict_metadata[key]
        assert isinstance(entry, TensorStorageMetadata)
        return entry

    def _read_rows(self, key: str, chunk: ChunkStorageMetadata, rows: tuple[int, ...]) -> torch.Tensor:
        """What a chunk holds at these rows."""
        return self._read_chunk(key, chunk)[tuple(row - start for row, start in zip(rows, chunk.offsets, strict=False))]

    def _read_chunk(self, key: str, chunk: ChunkStorageMetadata) -> torch.Tensor:
        stored = self._metadata.storage_data.get(MetadataIndex(key, chunk.offsets))
        if stored is None:
            raise CheckpointError(f"{self.path / METADATA_FILE}: {key}: no file for the part at {chunk.offsets}")
        file = self.path / Path(stored.relative_path).name
        if stored.transform_descriptors:
            raise CheckpointError(f"{file}: {key}: stored with {stored.transform_descriptors}, which is not supported")
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file, but {key} is in it")
        if file.stat().st_size < stored.offset + stored.length:
            raise CheckpointError(f"{file}: truncated: {key} at {stored.offset} needs {stored.length} bytes")
        try:
            with file.open("rb", buffering=0) as stream:
                tensor = stored_tensor(stream, stored.offset, stored.length)
        except (OSError, RuntimeError, *_UNPICKLING_ERRORS) as error:
            raise CheckpointError(f"{file}: damaged: {key} at {stored.offset}: {error}") from error
        if tensor.shape != chunk.sizes:
            raise CheckpointError(f"{file}: {key} at {stored.offset}: expected a tensor of shape {tuple(chunk.sizes)}")
        return tensor


def _by_rows(
    chunks: Sequence[ChunkStorageMetadata], num_rows: int
) -> dict[tuple[int, ...], list[ChunkStorageMetadata]]:
    """The chunks that hold a part of what lies at each combination of rows."""
    found: dict[tuple[int, ...], list[ChunkStorageMetadata]] = {}
    for chunk in chunks:
        spans = zip(chunk.offsets[:num_rows], chunk.sizes[:num_rows], strict=True)
        for rows in itertools.product(*(range(start, start + size) for start, size in spans)):
            found.setdefault(rows, []).append(chunk)
    return found


def _checkpoint_folder(path: Path) -> Path:
    tracker = path / TRACKER_FILE
    if not tracker.is_file():
        folder = path
    else:
        try:
            text = tracker.read_text(errors="replace").strip()
        except OSError as error:
            raise CheckpointError(f"{tracker}: cannot be read: {error.strerror}") from error
        if text != RELEASE and not text.isdecimal():
            raise CheckpointError(f"{tracker}: expected {RELEASE!r} or an iteration, got {text[:40]!r}")
        folder = path / (RELEASE if text == RELEASE else f"iter_{int(text):07d}")
    if not (folder / METADATA_FILE).is_file():
        raise CheckpointError(f"{folder / METADATA_FILE}: no such file; expected a torch_dist checkpoint")
    return folder


def _read_metadata(folder: Path) -> Metadata:
    backend_file = folder / "metadata.json"
    try:
        backend = json.loads(backend_file.read_bytes())["sharded_backend"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{backend_file}: incomplete checkpoint: {error!r}") from error
    if backend != "torch_dist":
        raise CheckpointError(f"{backend_file}: expected format torch_dist, got {backend!r}")
    file = folder / METADATA_FILE
    try:
        with file.open("rb") as stream:
            content = _MetadataUnpickler(stream).load()
        if not isinstance(content, Metadata) or not isinstance(content.storage_data, dict):
            raise CheckpointError(f"{file}: expected metadata of torch.distributed.checkpoint, got {type(content)}")
        _check_entries(content)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (*_UNPICKLING_ERRORS, MemoryError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: damaged, or not a torch_dist checkpoint: {error!r}") from error
    return content


def _check_entries(content: Metadata) -> None:
    """Looks at everything that is used later. What is damaged lacks attributes, or has them of other types.

    Raises:
        ValueError: naming a tensor with a part that is not within it.
        AttributeError, TypeError: for an object that is not what it should be.
    """
    for key, entry in content.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            continue
        if not key.strip() or entry.properties.dtype.itemsize < 1:
            raise ValueError(f"{key!r}: its dtype is {entry.properties.dtype}")
        for chunk in entry.chunks:
            spans = zip(chunk.offsets, chunk.sizes, entry.size, strict=True)
            if any(start < 0 or size < 0 or start + size > whole for start, size, whole in spans):
                raise ValueError(f"{key}: a part of shape {chunk.sizes} at {chunk.offsets} is not within {entry.size}")
    for index, stored in content.storage_data.items():
        if min(stored.offset, stored.length) < 0 or not stored.relative_path:
            raise ValueError(f"{index.fqn}: it lies at {stored}")


_METADATA_CLASSES = {
    (module.__name__, name): getattr(module, name)
    for module, names in {
        metadata: (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        ),
        filesystem: ("_StorageInfo",),
    }.items()
    for name in names
}  # fmt: skip


def _layout_named(name: str) -> torch.layout:
    """The layout of a name such as `torch.strided`."""
    found = vars(torch).get(name.removeprefix("torch."))
    if not isinstance(found, torch.layout):
        raise pickle.UnpicklingError(f"expected the name of a layout, got {name!r}")
    return found


class _MetadataUnpickler(pickle.Unpickler):
    """Builds nothing but what describes tensors, so that a file from a stranger cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The class of that name, if it is one of those that describe tensors."""
        if (module, name) in _METADATA_CLASSES:
            return _METADATA_CLASSES[module, name]
        found = vars(torch).get(name) if module == "torch" else None
        if found is torch.Size or isinstance(found, torch.dtype | torch.layout):
            return found
        if (module, name) == ("torch.serialization", "_get_layout"):
            return _layout_named
        if module.startswith("pathlib") and name == "PosixPath":
            return Path
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")
