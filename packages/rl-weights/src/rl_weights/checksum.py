"""Checksums: of a flat piece of memory, and of a bucket wherever it lies."""

from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch

type Buffer = bytes | bytearray | memoryview | torch.Tensor

_LANES = 4096
"""Columns of the matrix of 64-bit integers as which a bucket is read: a row is 32 KiB, long enough to be read fast."""

_PIECE_BYTES = 2**20


def checksum(buffer: Buffer) -> str:
    """XXH3 (64 bit) of the bytes, as 16 hexadecimal digits. It finds damage, not forgery.

    Args:
        buffer: bytes, or a contiguous tensor of any dtype; one on the CPU is not copied.
    """
    if not isinstance(buffer, bytes | bytearray | memoryview):
        buffer = memoryview(as_bytes(buffer).cpu().numpy())
    return xxhash.xxh3_64_hexdigest(buffer)


def checksum_of_file(file: Path) -> str:
    """The `checksum` of all bytes of the file, which is read piece by piece."""
    digest = xxhash.xxh3_64()
    with file.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def bucket_checksum(buffer: "torch.Tensor") -> str:
    """The checksum that a bucket travels with, computed where it lies; equal on every device. 16 hexadecimal digits.

    The bytes are read as rows of 4096 64-bit integers. The checksum is XXH3 of the sums of the columns and of the rows,
    both modulo 2**64, of the bytes that are left over, and of their number. Every byte counts, and so does its place;
    a GPU reads the bucket twice, at the speed of its memory, and makes nothing as large as the bucket.

    Args:
        buffer: [bytes] uint8. What the device's current stream has yet to write into it is waited for.
    """
    import torch

    if buffer.numel() == 0:
        buffer = buffer.new_empty(0)  # numpy's empty arrays come with a stride that cannot be viewed
    flat = buffer.clone() if buffer.storage_offset() % 8 else buffer
    num_in_rows = flat.numel() // (8 * _LANES) * (8 * _LANES)
    rows = flat[:num_in_rows].view(torch.int64).view(-1, _LANES)
    sums = torch.cat([rows.sum(0), rows.sum(1)])
    content = torch.cat([sums.view(torch.uint8), flat[num_in_rows:]]).cpu()
    digest = xxhash.xxh3_64(memoryview(content.numpy()))
    digest.update(flat.numel().to_bytes(8, "little"))
    return digest.hexdigest()


def as_bytes(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensor's memory as a flat uint8 tensor; shared with a contiguous tensor."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
