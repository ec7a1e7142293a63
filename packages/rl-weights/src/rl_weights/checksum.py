"""The checksum of a flat piece of memory."""

import torch
import xxhash

type Buffer = bytes | bytearray | memoryview | torch.Tensor


def checksum(buffer: Buffer) -> str:
    """XXH3 (64 bit) of the bytes, as 16 hexadecimal digits. It finds damage, not forgery.

    Args:
        buffer: bytes, or a contiguous tensor of any dtype; one on the CPU is not copied.
    """
    if isinstance(buffer, torch.Tensor):
        buffer = memoryview(as_bytes(buffer).cpu().numpy())
    return xxhash.xxh3_64_hexdigest(buffer)


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as a flat uint8 tensor; shared with a contiguous tensor."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
