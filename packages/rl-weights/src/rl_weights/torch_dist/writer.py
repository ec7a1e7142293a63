"""Checkpoints in Megatron's torch_dist format, written without Megatron: a file of each rank, then what describes all.

Source: torch 2.11.0, distributed/checkpoint/filesystem.py, whose files these are.
"""

import io
import json
import pickle
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import msgspec
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo  # pyright: ignore[reportPrivateUsage]
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from rl_weights.checksum import as_bytes, checksum
from rl_weights.dtypes import dtype_named
from rl_weights.json_value import JsonValue
from rl_weights.manifest import ManifestBytes
from rl_weights.read_ahead import read_ahead
from rl_weights.rules.box import Box
from rl_weights.streamed_file import StreamedFile
from rl_weights.torch_dist.names import METADATA_FILE

COMMON_STATE_KEY = "common_state/shard_0_1"
DATA_SUFFIX = ".distcp"
_BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
_ALIGNMENT = 64
"""Of what is written, so that who maps the file into memory finds tensors at multiples of their elements' size."""


class StoredPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the tensor of one key, that is written by itself. Where the key has rows, they lead its dimensions."""

    key: str
    dtype: str
    """Torch dtype without the prefix."""
    shape: tuple[int, ...]
    """Of the whole tensor of that key."""
    offset: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(
        cls, key: str, dtype: str, shape: tuple[int, ...], box: Box, rows: Sequence[int], row_sizes: Sequence[int]
    ) -> "StoredPart":
        """The part at `box` of the tensor of that shape that lies at `rows` of the key."""
        return cls(
            key=key,
            dtype=dtype,
            shape=(*row_sizes, *shape),
            offset=(*rows, *box.offset),
            size=(*(1 for _ in rows), *box.shape),
        )


class StoredAt(msgspec.Struct, frozen=True):
    """Where something lies that was written."""

    key: str
    offset: tuple[int, ...] | None
    """Of a part of a tensor; None for an object."""
    file: str
    start: int
    length: int
    checksum: str | None = None
    """Of the bytes of an object; None for a part of a tensor."""

    @property
    def entry(self) -> ManifestBytes | None:
        """What the manifest says of an object."""
        return None if self.checksum is None else ManifestBytes(self.key, self.length, self.checksum)


@dataclass(frozen=True, slots=True)
class PartToStore:
    """A part that is made when its turn comes to be written."""

    part: StoredPart
    make: Callable[[], torch.Tensor]
    """Called once, in a thread; gives a tensor on the CPU, of the part's dtype and of its size but for the rows."""


def rank_file(rank: int) -> str:
    """Name of the file that a rank writes."""
    return f"__{rank}_0{DATA_SUFFIX}"


def write_file(
    file: Path, objects: Mapping[str, object], parts: Iterable[PartToStore], advance: Callable[[int], None]
) -> list[StoredAt]:
    """Writes the file of one rank, making the next part meanwhile, and says where everything lies in it.

    Args:
        file: is made.
        objects: what is not a tensor, by its key.
        parts: in the order in which they are to be made.
        advance: told of the bytes of each part once it is written.
    """
    written: list[StoredAt] = []
    with StreamedFile(file) as stream, _without_crc32():
        for key, content in objects.items():
            written.append(_append_object(stream, file.name, key, [content]))
        with read_ahead((item.part, _made(item)) for item in parts) as made:
            for part, tensor in made:
                written.append(_append(stream, file.name, part, tensor))
                advance(tensor.nbytes)
    return written


def write_description(folder: Path, parts: Iterable[StoredPart], written: Iterable[StoredAt]) -> None:
    """Writes what describes the files of all ranks: `.metadata` and metadata.json."""
    entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    for part in parts:
        shape, dtype = torch.Size(part.shape), dtype_named(part.dtype, part.key)
        entry = entries.setdefault(part.key, TensorStorageMetadata(TensorProperties(dtype=dtype), shape, []))
        assert isinstance(entry, TensorStorageMetadata)
        entry.chunks.append(ChunkStorageMetadata(torch.Size(part.offset), torch.Size(part.size)))
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for at in written:
        if at.offset is None:
            entries[at.key] = BytesStorageMetadata()
        storage[MetadataIndex(at.key, at.offset)] = _StorageInfo(at.file, at.start, at.length)
    metadata = Metadata(
        state_dict_metadata=dict(entries), planner_data=None, storage_data=storage, storage_meta=StorageMeta()
    )
    (folder / METADATA_FILE).write_bytes(pickle_metadata(metadata))
    (folder / "metadata.json").write_text(json.dumps(_BACKEND))


def pickle_metadata(metadata: Metadata) -> bytes:
    """The content of `.metadata`."""
    return pickle.dumps(metadata)


def common_state(iteration: int) -> Mapping[str, JsonValue]:
    """The state that no rank has for itself."""
    return {"checkpoint_version": 3.0, "iteration": iteration}


def _made(item: PartToStore) -> torch.Tensor:
    made, part = item.make(), item.part
    num_rows = len(part.size) - made.ndim
    assert (made.dtype, tuple(made.shape)) == (dtype_named(part.dtype, part.key), part.size[num_rows:])
    if made.untyped_storage().nbytes() != made.nbytes:  # of a view torch.save would write all that it is a view of
        made = _with_storage_of_its_own(made)
    return made.contiguous()[(None,) * num_rows]


def _with_storage_of_its_own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous, over a storage that has its bytes alone; shared with one that is contiguous already."""
    flat = torch.frombuffer(memoryview(as_bytes(tensor).numpy()), dtype=torch.uint8) if tensor.numel() else tensor
    return flat.view(tensor.dtype).view(tensor.shape)


def _append_object(stream: StreamedFile, file: str, key: str, content: object) -> StoredAt:
    archive = io.BytesIO()
    torch.save(content, archive)
    start = _aligned(stream)
    stream.write(archive.getbuffer())
    return StoredAt(key, None, file, start, stream.tell() - start, checksum(archive.getvalue()))


def _append(stream: StreamedFile, file: str, part: StoredPart, tensor: torch.Tensor) -> StoredAt:
    start = _aligned(stream)
    try:
        torch.save(tensor, cast("IO[bytes]", stream))
    except RuntimeError as error:
        # Its archive is closed also when a write has failed, and then complains of that, in the place of the reason.
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from None
        raise
    return StoredAt(part.key, part.offset, file, start, stream.tell() - start)


def _aligned(stream: StreamedFile) -> int:
    """Where the next thing begins, once the stream is filled up to there."""
    stream.write(bytes(-stream.tell() % _ALIGNMENT))
    return stream.tell()


@contextmanager
def _without_crc32() -> Generator[None]:
    """Does not have torch.save compute checksums, which no reader of torch's looks at; they take most of the time."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
