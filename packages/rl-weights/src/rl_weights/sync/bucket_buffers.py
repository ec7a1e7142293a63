"""The memory that buckets are filled into."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from rl_weights.checksum import as_bytes


class BucketBuffers:
    """Buffers of equal size that are filled in turn.

    Those on a GPU have memory segments of their own: another process to which one is shown maps nothing else, and the
    memory is free for other processes once the buffers are.

    Args:
        device: where they lie.
        num_bytes: size of each.
        count: how many.
        is_filled_from_gpu: whether buffers in host memory should be such as a GPU copies into fast.
    """

    def __init__(self, device: torch.device, num_bytes: int, count: int, *, is_filled_from_gpu: bool) -> None:
        self.device = device
        self._pool: torch.cuda.MemPool | None = None
        if device.type != "cuda":
            self._buffers = [
                torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_filled_from_gpu) for _ in range(count)
            ]
            return
        torch.cuda.ipc_collect()  # earlier buffers that an engine held longer than their owner
        self._pool = torch.cuda.MemPool()
        with _fixed_segments(), torch.cuda.use_mem_pool(self._pool, device):
            self._buffers = [torch.empty(num_bytes, dtype=torch.uint8, device=device) for _ in range(count)]

    def __getitem__(self, index: int) -> torch.Tensor:
        """The buffer of the bucket with this number."""
        return self._buffers[index % len(self._buffers)]

    def free(self) -> None:
        """Gives their memory back to the GPU. What another process still maps is given back when it does no more."""
        self._buffers.clear()
        if self._pool is not None:
            torch.cuda.ipc_collect()
            self._pool = None  # with it goes what torch would keep of it


@contextmanager
def _fixed_segments() -> Generator[None]:
    """Within it torch takes memory as CUDA gives it.

    Its expandable segments can be shown to another process only where the system lets one process take another's file
    descriptors, which containers mostly forbid.
    """
    given = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    if "expandable_segments:true" not in given.lower():
        yield
        return
    change: Callable[[str], None] = torch._C._accelerator_setAllocatorSettings  # pyright: ignore[reportPrivateUsage]
    change("expandable_segments:False")
    try:
        yield
    finally:
        change(given)


@torch.no_grad()
def copy_into(buffer: torch.Tensor, start: int, tensor: torch.Tensor) -> int:
    """Lays the tensor's elements, in their order, into the buffer ([bytes] uint8) from byte `start` on.

    Returns the byte after the last. On a GPU it is only queued on the current stream.
    """
    stop = start + tensor.nbytes
    target = buffer[start:stop]
    if start % tensor.element_size():
        target.copy_(as_bytes(tensor))
    else:
        target.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return stop
