"""Memory of a trainer rank that an engine on the same GPU can have meanwhile.

A storage is emptied and later filled again with the same bytes, so every tensor that lies on it stays valid. On a CPU
the same bytes move in the same way, from one part of the host's memory to another.
"""

# pyright: standard
# Megatron-Core is annotated in part only.

from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer
from torch import Tensor

from rl_train.errors import HostMemoryError, MemoryReleasedError
from rl_train.megatron.host_memory import require_host_memory, resident_bytes
from rl_train.trainer import MemoryUse, TrainerPart

# Pieces of the host buffer start at multiples of it, as tensors on a GPU do.
_ALIGNMENT = 512
_MOVED = (TrainerPart.OPTIMIZER, TrainerPart.PARAMETERS)


class _Saved(NamedTuple):
    storage: torch.UntypedStorage
    num_bytes: int
    start: int
    """First byte in the host buffer."""


class HostCopy:
    """A copy of storages in one buffer of host memory, page-locked for a GPU. Made at its first use, and kept.

    Args:
        what: it is for, for the message where the host has no room.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._buffer: Tensor | None = None
        self._saved: list[_Saved] = []

    @property
    def num_bytes(self) -> int:
        """Size of the buffer; 0 before its first use."""
        return 0 if self._buffer is None else self._buffer.numel()

    def save(self, storages: Collection[torch.UntypedStorage]) -> None:
        """Copies the storages' bytes here.

        Raises:
            HostMemoryError: if the host has no room for them.
        """
        saved: list[_Saved] = []
        start = 0
        for storage in storages:
            saved.append(_Saved(storage, storage.nbytes(), start))
            start += -(-storage.nbytes() // _ALIGNMENT) * _ALIGNMENT
        if self._buffer is None or self._buffer.numel() < start:
            if self._buffer is not None and _is_cuda(storages):
                _check_cuda(int(_cudart().cudaHostUnregister(self._buffer.data_ptr())), self._what)
            self._buffer = None
            self._buffer = _host_buffer(start, self._what, is_locked=_is_cuda(storages))
        for one in saved:
            self._piece(one).copy_(_bytes_of(one.storage), non_blocking=True)
        if _is_cuda(storages):
            torch.cuda.synchronize()
        self._saved = saved

    def park(self, storages: Collection[torch.UntypedStorage]) -> None:
        """Moves the storages' bytes here and leaves the storages with size 0.

        Raises:
            HostMemoryError: if the host has no room for them. Nothing has moved then.
        """
        # On a CPU, what numpy has looked at cannot be resized, and stays.
        self.save([storage for storage in storages if storage.resizable()])
        for one in self._saved:
            one.storage.resize_(0)

    def restore(self) -> None:
        """Gives every storage that was saved last its bytes back, and its size if it has lost it."""
        for one in self._saved:
            if one.storage.nbytes() != one.num_bytes:
                one.storage.resize_(one.num_bytes)
            _bytes_of(one.storage).copy_(self._piece(one), non_blocking=True)
        if _is_cuda([one.storage for one in self._saved]):
            torch.cuda.synchronize()

    def _piece(self, one: _Saved) -> Tensor:
        assert self._buffer is not None
        return self._buffer[one.start : one.start + one.num_bytes]


def _is_cuda(storages: Iterable[torch.UntypedStorage]) -> bool:
    return any(storage.device.type == "cuda" for storage in storages)


def _host_buffer(num_bytes: int, what: str, *, is_locked: bool) -> Tensor:
    require_host_memory(num_bytes, what)
    buffer = torch.empty(num_bytes, dtype=torch.uint8)
    if is_locked:
        # torch's own allocator of page-locked memory would round up to the next power of two.
        _check_cuda(int(_cudart().cudaHostRegister(buffer.data_ptr(), num_bytes, 0)), what)
    return buffer


def _cudart() -> Any:
    return torch.cuda.cudart()


def _check_cuda(code: int, what: str) -> None:
    try:
        torch.cuda.check_error(code)
    except RuntimeError as error:
        raise HostMemoryError(f"{what}: host memory cannot be page-locked (see `ulimit -l`): {error}") from error


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def storages_of(tensors: Iterable[Tensor], *, without: Iterable[Tensor] = ()) -> list[torch.UntypedStorage]:
    """Each storage that the tensors lie on, once, but for those of `without`."""
    # Addresses tell them apart: torch makes a new Python object every time it is asked for a storage.
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    found = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return [storage for key, storage in found.items() if key not in left_out and storage.nbytes() > 0]


class RankMemory:
    """Which parts of a rank's memory are given up, and where their contents are meanwhile."""

    def __init__(self, model: DistributedDataParallel, optimizer: ChainedOptimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._released: set[TrainerPart] = set()
        self._copies = {part: HostCopy(f"the trainer's {part}") for part in _MOVED}

    def release(self, parts: Collection[TrainerPart]) -> None:
        """See `Trainer.release_memory`.

        Raises:
            HostMemoryError: if the host has no room. What was not moved stays.
        """
        for part in TrainerPart:
            if part in parts and part not in self._released:
                self._release(part)
                self._released.add(part)
        torch.cuda.empty_cache()

    def resume(self) -> None:
        """See `Trainer.resume_memory`."""
        for part in TrainerPart:
            if part in self._released:
                if part is TrainerPart.GRADIENTS:
                    self._model.restore_grad_buffers()
                else:
                    self._copies[part].restore()
                self._released.discard(part)

    def require(self, doing: str, *parts: TrainerPart) -> None:
        """Does nothing while the parts are there.

        Raises:
            MemoryReleasedError: if one is not.
        """
        if missing := [part for part in parts if part in self._released]:
            raise MemoryReleasedError(f"{doing} needs {' and '.join(missing)}, which are released: resume_memory first")

    def _release(self, part: TrainerPart) -> None:
        if part is TrainerPart.GRADIENTS:
            # The optimizer's gradients may lie on the model's, or be a copy of them.
            self._optimizer.zero_grad()
            self._model.offload_grad_buffers(empty_cache=False)
            return
        parameters = list(self._model.parameters())
        if part is TrainerPart.OPTIMIZER:
            # In float32 the optimizer works on the parameters themselves.
            storages = storages_of(_tensors_of(self._optimizer), without=parameters)
        else:
            storages = storages_of(parameters)
        self._copies[part].park(storages)

    def use(self) -> MemoryUse:
        """What this rank holds now and, on a GPU, held at most since the last call."""
        parked = sum(copy.num_bytes for copy in self._copies.values())
        if not torch.cuda.is_available():
            return MemoryUse(resident_bytes=resident_bytes(), parked_bytes=parked)
        free, total = torch.cuda.mem_get_info()
        use = MemoryUse(
            resident_bytes=resident_bytes(),
            parked_bytes=parked,
            device_bytes=total - free,
            allocated_peak_bytes=torch.cuda.max_memory_allocated(),
            reserved_peak_bytes=torch.cuda.max_memory_reserved(),
        )
        torch.cuda.reset_peak_memory_stats()
        return use


def _tensors_of(optimizer: ChainedOptimizer) -> Iterator[Tensor]:
    """Master weights and moments; counters of one number stay where they are."""
    for part in optimizer.chained_optimizers:
        inner = part.optimizer
        if inner is None:  # a rank without parameters of its own
            continue
        weights = chain.from_iterable(group["params"] for group in inner.param_groups)
        states = chain.from_iterable(state.values() for state in inner.state.values())
        yield from (one for one in chain(weights, states) if isinstance(one, Tensor) and one.dim() > 0)
