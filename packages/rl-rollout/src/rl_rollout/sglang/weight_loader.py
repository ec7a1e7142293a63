"""Loads buckets of weights inside SGLang's scheduler processes, which import this by its name.

It goes by SGLang's server argument `custom_weight_loader`.
"""

import logging
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, cast

import msgspec
import torch

from rl_rollout.sglang.load_plan import LoadPlan, SGLangModel, read_back
from rl_rollout.sglang.messages import CheckBuffer, DeviceBuffer, DeviceStorage, GroupBuffer, JoinGroup, LetGo
from rl_rollout.sglang.weight_group import WeightGroup
from rl_rollout.sglang.weight_orders import HostBuffer, LoadBucket, Order, OrderAnswer, ReadTensors
from rl_rollout.weights import LANES, TensorSpec, aligned_places, checksum_of_sums

logger = logging.getLogger(__name__)

_decoder = msgspec.json.Decoder(Order)


_plans: dict[tuple[TensorSpec, ...], LoadPlan] = {}
"""How each bucket that came was loaded."""


class LoadRefusedError(RuntimeError):
    """A bucket that was not loaded."""


def load(model: SGLangModel, named: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Carries out the order that is the name of the only tensor given."""
    [(order_json, _)] = named
    order = _decoder.decode(order_json)
    try:
        answer = _carry_out(model, order)
    except Exception as error:  # SGLang's process would end; the caller is told, and judges it
        if not isinstance(error, LoadRefusedError):
            logger.exception("a bucket of weights could not be loaded")
        answer = OrderAnswer(refusal=str(error) if isinstance(error, LoadRefusedError) else repr(error))
    Path(order.answer_path).write_bytes(msgspec.json.encode(answer))


def _carry_out(model: SGLangModel, order: Order) -> OrderAnswer:
    device = next(model.parameters()).device
    task = order.task
    match task:
        case LoadBucket():
            return _load(model, task, device)
        case CheckBuffer():
            _checked(task, device, {})
        case ReadTensors(specs, file):
            flat = _map_file(file, is_shared=True)
            for (name, dtype, shape), (start, stop) in zip(specs, aligned_places(specs), strict=True):
                read_back(model, name, flat[start:stop].view(getattr(torch, dtype)).view(shape))
        case JoinGroup():
            _group.join(task, device)
        case LetGo():
            _open_buffers.close()
            _group.free()
    return OrderAnswer()


def _load(model: SGLangModel, task: LoadBucket, device: torch.device) -> OrderAnswer:
    seconds: dict[str, float] = {}
    flat = _checked(task, device, seconds)
    started = time.perf_counter()
    key = tuple((name, dtype, tuple(shape)) for name, dtype, shape in task.specs)
    plan = _plans.get(key)
    if plan is not None and plan.fits(model):
        plan.load(flat)
    elif (seen := LoadPlan.load_and_see(model, _tensors(task.specs, flat), flat)) is not None:
        _plans[key] = seen
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # the sender writes into the buffer again after the answer
    seconds["load"] = time.perf_counter() - started
    return OrderAnswer(seconds=seconds)


def _checked(task: LoadBucket | CheckBuffer, device: torch.device, seconds: dict[str, float]) -> torch.Tensor:
    """The bucket ([bytes] uint8), if it has the checksum; times by phase go into `seconds`."""
    started = time.perf_counter()
    match task.buffer:
        case HostBuffer():
            flat = _map_file(task.buffer, is_shared=False)
        case GroupBuffer(num_bytes):
            flat = _group.receive(num_bytes)
        case DeviceBuffer():
            flat = _open_buffers.view(task.buffer, device)
    opened = time.perf_counter()
    if (actual := checksum_of(flat)) != task.checksum:
        raise LoadRefusedError(f"expected checksum {task.checksum}, got {actual}")
    seconds |= {"open": opened - started, "checksum": time.perf_counter() - opened}
    return flat


def checksum_of(flat: torch.Tensor) -> str:
    """The same as `rl_rollout.weights.checksum`, computed where the bucket lies."""
    if flat.numel() == 0:
        flat = flat.new_empty(0)  # numpy's empty arrays come with a stride that cannot be viewed
    aligned = flat.clone() if flat.storage_offset() % 8 else flat
    num_in_rows = aligned.numel() // (8 * LANES) * (8 * LANES)
    rows = aligned[:num_in_rows].view(torch.int64).view(-1, LANES)
    sums = [part.cpu().numpy() for part in (rows.sum(0), rows.sum(1), aligned[num_in_rows:])]
    return checksum_of_sums(sums[0], sums[1], sums[2], flat.numel())


def _tensors(specs: Sequence[TensorSpec], flat: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that lie end to end in the buffer; they share its memory where their dtype is aligned."""
    start = 0
    for name, dtype_name, shape in specs:
        dtype: torch.dtype = getattr(torch, dtype_name)
        stop = start + dtype.itemsize * prod(shape)
        piece = flat[start:stop]
        if (flat.storage_offset() + start) % dtype.itemsize:
            piece = piece.clone()
        yield name, piece.view(dtype).view(tuple(shape))
        start = stop


def _map_file(file: HostBuffer, *, is_shared: bool) -> torch.Tensor:
    """[bytes] uint8.

    Writable, because torch has no read-only tensors; what is written stays private unless the file is shared.
    """
    if file.num_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    descriptor = os.open(file.path, os.O_RDWR if is_shared else os.O_RDONLY)
    try:
        pages = mmap.mmap(descriptor, file.num_bytes, flags=mmap.MAP_SHARED if is_shared else mmap.MAP_PRIVATE)
    finally:
        os.close(descriptor)
    return torch.frombuffer(pages, dtype=torch.uint8)


class _OpenBuffers:
    """Mappings of another process's GPU memory, kept while that is in use there."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], torch.Tensor] = {}

    def view(self, buffer: DeviceBuffer, device: torch.device) -> torch.Tensor:
        """The bucket ([bytes] uint8), in the memory of the process that shared it."""
        storage = buffer.storage
        if device.type != "cuda":
            raise LoadRefusedError(f"the bucket is on GPU {storage.device_uuid}, the engine on a CPU")
        alive = {(storage.owner, number) for number in buffer.alive}
        self._open = {key: opened for key, opened in self._open.items() if key in alive}
        key = (storage.owner, storage.number)
        if key not in self._open:
            try:
                self._open[key] = _open_storage(storage, device)
            except RuntimeError as error:
                cuda: Any = torch.cuda  # annotated in part only
                uuid = cuda.get_device_properties(device).uuid
                raise LoadRefusedError(
                    f"the bucket is on GPU {storage.device_uuid}, whose memory the engine cannot read on GPU {uuid}: "
                    f"{error}"
                ) from error
        return self._open[key][buffer.start : buffer.start + buffer.num_bytes]

    def close(self) -> None:
        """Ends all mappings."""
        self._open = {}


_open_buffers = _OpenBuffers()
_group = WeightGroup()


def _open_storage(storage: DeviceStorage, device: torch.device) -> torch.Tensor:
    """[bytes] uint8: all of the shared memory. The counterpart of `rl_rollout.sglang.sharing`.

    It is mapped for the model's GPU, also if it lies on another one to which CUDA gives access; torch then takes it for
    the model's own.
    """
    untyped: Any = torch.UntypedStorage  # annotated in part only
    index = cast("int | None", device.index)  # whatever torch says
    opened = untyped._new_shared_cuda(
        torch.cuda.current_device() if index is None else index,
        storage.handle,
        storage.num_bytes,
        storage.offset,
        storage.counter_handle,
        storage.counter_offset,
        storage.event_handle,
        storage.is_event_needed,
    )
    return torch.empty(0, dtype=torch.uint8, device=device).set_(opened)
