"""A tensor that torch.save wrote into a part of a file, mapped into memory rather than read where that can be."""

import ctypes
import errno
import functools
import io
import mmap
import os
import weakref
from typing import IO, cast

import torch

from rl_weights.torch_dist.file_part import FilePart

_MADV_POPULATE_READ = 22
"""Source: Linux, include/uapi/asm-generic/mman-common.h. Python's mmap has no name for it."""
_MAP_FAILED = ctypes.c_void_p(-1).value


def stored_tensor(file: io.FileIO, start: int, length: int) -> torch.Tensor:
    """The tensor that lies in `length` bytes of the file from `start` on.

    Its memory is a private mapping of the file where the elements lie at multiples of their size: writing into it
    changes no file. Elsewhere the bytes are copied, for compiled loops may count on that alignment.

    Args:
        file: open for reading, without a buffer of its own; may be closed afterwards.
        start: where the archive that torch.save wrote begins.
        length: of the archive.

    Raises:
        OSError: for what cannot be mapped.
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
    """[bytes] uint8. Holds no descriptor of the file, as Python's mmap does before 3.13: tensors may be thousands."""
    if num_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    before = start % mmap.ALLOCATIONGRANULARITY
    size = before + num_bytes
    libc = _libc()
    address: int = libc.mmap(
        None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file.fileno(), start - before
    )
    if address == _MAP_FAILED:
        raise _mapping_error(start, num_bytes)
    pages = (ctypes.c_ubyte * size).from_address(address)  # lives as long as a tensor that looks at it
    weakref.finalize(pages, libc.munmap, address, size).atexit = False  # other threads may still read then
    # Read and mapped at once, for a page at a time takes longer. Linux before 5.14 knows no such advice, and does it
    # page by page, later. What cannot be read must end here: it would kill the process when it is looked at.
    if libc.madvise(address, size, _MADV_POPULATE_READ) and ctypes.get_errno() != errno.EINVAL:
        raise _mapping_error(start, num_bytes)
    return torch.frombuffer(pages, dtype=torch.uint8, offset=before, count=num_bytes)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _mapping_error(start: int, num_bytes: int) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{num_bytes} bytes from {start} on cannot be mapped: {os.strerror(number)}")


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
