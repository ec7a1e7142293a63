"""A tensor that torch.save wrote into a part of a file, mapped into memory rather than read where that can be."""

import contextlib
import io
import mmap
from typing import IO, cast

import torch

from rl_weights.torch_dist.file_part import FilePart

_MADV_POPULATE_READ = 22
"""Source: Linux, include/uapi/asm-generic/mman-common.h. Python's mmap has no name for it."""


def stored_tensor(file: io.FileIO, start: int, length: int) -> torch.Tensor:
    """The tensor that lies in `length` bytes of the file from `start` on.

    Its memory is a private mapping of the file where the elements lie at multiples of their size: writing into it
    changes no file. Elsewhere the bytes are copied, for compiled loops may count on that alignment.

    Args:
        file: open for reading, without a buffer of its own; may be closed afterwards.
        start: where the archive that torch.save wrote begins.
        length: of the archive.

    Raises:
        ValueError: if something else than a tensor lies there, or its bytes reach over the end.
        Exception: whatever torch.load raises for a damaged archive.
    """
    part = FilePart(file, start, length)
    # Reads the archive's directory and what describes the tensor, and notes where its bytes begin.
    described = torch.load(cast("IO[bytes]", part), map_location="meta", weights_only=True)
    if not isinstance(described, torch.Tensor):
        raise ValueError(f"expected a tensor, found {type(described).__name__}")
    storage = described.untyped_storage()
    first = storage._checkpoint_offset  # pyright: ignore[reportPrivateUsage]
    if not isinstance(first, int):  # torch 2.9 notes none for the device meta; since pytorch PR #170619
        part.seek(0)
        return torch.load(cast("IO[bytes]", part), map_location="cpu", weights_only=True)
    if first + storage.nbytes() > length:
        raise ValueError(f"expected {storage.nbytes()} bytes from {first} on, found {length}")
    if (start + first) % described.element_size():
        flat = _copied(part, first, storage.nbytes())
    else:
        flat = _mapped(file, start + first, storage.nbytes())
    elements = flat.view(described.dtype)
    return elements.as_strided(described.shape, described.stride(), described.storage_offset())


def _mapped(file: io.FileIO, start: int, num_bytes: int) -> torch.Tensor:
    """[bytes] uint8."""
    if num_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    before = start % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(file.fileno(), before + num_bytes, access=mmap.ACCESS_COPY, offset=start - before)
    # Read and mapped at once, for a page at a time takes longer. Linux before 5.14 does it page by page, later.
    with contextlib.suppress(OSError):
        pages.madvise(_MADV_POPULATE_READ)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=before, count=num_bytes)


def _copied(part: FilePart, first: int, num_bytes: int) -> torch.Tensor:
    """[bytes] uint8."""
    flat = torch.empty(num_bytes, dtype=torch.uint8)
    view = memoryview(flat.numpy())
    part.seek(first)
    done = 0
    while done < num_bytes:
        count = part.readinto(view[done:])
        if not count:
            raise ValueError(f"expected {num_bytes} bytes from {first} on, found {done}")
        done += count
    return flat
