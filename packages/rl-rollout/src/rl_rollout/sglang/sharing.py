"""Shows buffers in this process's GPU memory to an engine's processes, which read the memory itself.

Nothing is copied.
"""

import itertools
import secrets
import threading
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rl_rollout.sglang.messages import DeviceBuffer, DeviceStorage

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.multiprocessing.reductions import StorageWeakRef


def is_on_gpu(buffer: "torch.Tensor | NDArray[np.uint8] | DeviceBuffer") -> "TypeGuard[torch.Tensor]":
    """Whether the buffer is a tensor in the memory of a GPU."""
    return not isinstance(buffer, np.ndarray | DeviceBuffer) and buffer.is_cuda


class BufferSharer:
    """Makes records of buffers for one engine. Each piece of memory is shared once, however often it is sent.

    The engine keeps memory that it was shown mapped until it is told to let go, or is shown other memory, by which it
    learns what is no longer in use; only then is that free again. A copy of a sharer (by pickle) is another sharer.
    """

    def __init__(self) -> None:
        self._owner = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._shared: dict[StorageWeakRef, DeviceStorage] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["BufferSharer"], tuple[()]]:
        return BufferSharer, ()

    def record(self, buffer: "torch.Tensor") -> DeviceBuffer:
        """What an engine on the same GPU needs to read the buffer ([bytes] uint8, contiguous).

        It reads without waiting for this process's streams: what was queued for the buffer must have been done before.
        """
        from torch.multiprocessing.reductions import StorageWeakRef

        storage = buffer.untyped_storage()
        with self._lock:
            self._shared = {known: record for known, record in self._shared.items() if not known.expired()}
            key = StorageWeakRef(storage)
            if key not in self._shared:
                self._shared[key] = _share(storage, self._owner, next(self._numbers))
            alive = [record.number for record in self._shared.values()]
            return DeviceBuffer(self._shared[key], int(buffer.storage_offset()), buffer.numel(), alive)

    def forget(self) -> None:
        """What was shared is shared anew when it is sent again. To be called before the engine is told to let go."""
        with self._lock:
            self._shared = {}


def _share(storage: "torch.UntypedStorage", owner: str, number: int) -> DeviceStorage:
    import torch

    untyped: Any = storage  # torch's own functions for this are not annotated
    cuda: Any = torch.cuda
    # The whole handle of CUDA's interprocess memory with torch's count of its readers; see
    # torch.multiprocessing.reductions, which cannot be used because what it makes may not pass through a third process.
    with torch.cuda.device(storage.device):
        _, handle, num_bytes, offset, counter_handle, counter_offset, event_handle, is_event_needed = (
            untyped._share_cuda_()
        )
    return DeviceStorage(
        owner=owner,
        number=number,
        device_uuid=str(cuda.get_device_properties(storage.device).uuid),
        handle=handle,
        num_bytes=num_bytes,
        offset=offset,
        counter_handle=counter_handle,
        counter_offset=counter_offset,
        event_handle=event_handle,
        is_event_needed=is_event_needed,
    )
