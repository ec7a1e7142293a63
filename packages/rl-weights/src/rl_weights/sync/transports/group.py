"""`gloo` and `nccl`: the writer broadcasts buckets in a process group with each engine.

A group holds the writer, rank 0, and all ranks of one engine, so that an engine that fails or hangs holds up no other.
What travels are the bytes of the bucket. The ranks meet at a file that only this user can open, or, where engines are
on other machines, at a port of the writer's host; the store and the group carry raw bytes.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch.distributed import FileStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from rl_weights.errors import SyncError
from rl_weights.protocols import GroupSink, WeightSink
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.sink_worker import SinkCall, SinkWorker
from rl_weights.sync.transports.transport import FilledBucket, submit_begin, submit_commit

type Backend = Literal["gloo", "nccl"]


class _Group(Protocol):
    """What is used of torch's process groups."""

    def broadcast(self, tensor: torch.Tensor, root: int) -> dist.Work: ...
    def abort(self) -> None: ...


class GroupTransport:
    """Broadcasts to each sink in a group of its own, which is joined at the first publish and kept.

    NCCL's ranks only reach each other if all of them have the same NCCL_CUMEM_ENABLE when they first use NCCL. SGLang
    sets it to 0 where it is not set, and so does this transport for nccl; a process that has used NCCL before should
    have done so.

    Args:
        backend: "gloo" takes buckets from host memory, "nccl" from the GPU of the weights, to engines on other GPUs.
        host: address of this machine by which engines on other machines reach it; None if all are on this one.
    """

    def __init__(self, backend: Backend, host: str | None = None) -> None:
        if backend == "nccl":
            os.environ.setdefault("NCCL_CUMEM_ENABLE", "0")
        self.name = backend
        self._backend: Backend = backend
        self._host = host
        self._groups: dict[int, _Group] = {}
        """By the sink's identity; those of sinks that failed are dropped, and joined anew."""
        self._meeting_places: list[contextlib.ExitStack] = []
        """Those that groups still need."""
        self._moved_bytes = 0

    def bucket_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """See `Transport`."""
        if self._backend == "gloo":
            return torch.device("cpu")
        if weights_on.type != "cuda":
            raise SyncError(f"nccl: expected weights on a GPU, got them on {weights_on}")
        return weights_on

    def begin(self, version: int, plan: SyncPlan, workers: Sequence[SinkWorker]) -> None:
        """See `Transport`."""
        self._moved_bytes = 0
        for worker in workers:
            if id(worker.sink) not in self._groups:
                worker.submit("join", f"join_group({self._backend})", partial(self._join, worker))
        submit_begin(version, workers)

    def send(self, filled: FilledBucket, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """See `Transport`."""
        self._moved_bytes += filled.bucket.num_bytes
        return [
            worker.submit("bucket", f"receive_bucket {filled.where}", partial(self._broadcast, worker, filled))
            for worker in workers
        ]

    def commit(self, version: int, num_tensors: int, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """See `Transport`."""
        return submit_commit(version, num_tensors, workers)

    def moved_bytes(self) -> int:
        """See `Transport`."""
        return self._moved_bytes

    def write_seconds(self) -> float:
        """See `Transport`."""
        return 0.0

    def close(self) -> None:
        """See `Transport`."""
        self._groups.clear()
        for place in self._meeting_places:
            place.close()
        self._meeting_places.clear()

    def _join(self, worker: SinkWorker) -> None:
        sink = _as_group_sink(worker.sink)
        size = 1 + sink.num_ranks()
        timeout = timedelta(seconds=worker.deadline_s)

        def make() -> None:
            self._groups[id(worker.sink)] = _make_group(self._backend, store, size, timeout, self._host)

        with contextlib.ExitStack() as stack:
            store, address = stack.enter_context(_meeting_place(self._host, size, timeout))
            _beside(
                partial(sink.join_group, address, self._backend, worker.deadline_s),
                make,
                worker.deadline_s,
                f"join the group of {worker.name}",
            )
            if self._backend == "nccl":  # whose ranks exchange their addresses through the store at the first broadcast
                self._meeting_places.append(stack.pop_all())

    def _broadcast(self, worker: SinkWorker, filled: FilledBucket) -> None:
        sink, group = _as_group_sink(worker.sink), self._groups[id(worker.sink)]

        def give() -> None:
            with _on_device_of(filled.buffer):
                group.broadcast(filled.buffer, 0).wait()

        receive = partial(sink.receive_bucket, filled.bucket.specs, filled.bucket.num_bytes, filled.checksum)
        try:
            # Both at a time: the first broadcast over nccl returns when all ranks have come to it.
            _beside(receive, give, worker.deadline_s, f"broadcast to {worker.name}")
        except Exception:
            # The sink may not have received: what is under way would meet the next bucket.
            self._groups.pop(id(worker.sink), None)
            with contextlib.suppress(RuntimeError):
                group.abort()
            raise


@contextlib.contextmanager
def _meeting_place(host: str | None, size: int, timeout: timedelta) -> Generator[tuple[Store, str]]:
    """A store for the block, and its address: a file, or a port of `host` and of no other interface."""
    if host is None:
        folder = tempfile.mkdtemp(prefix="rl-sync-")
        try:
            store = FileStore(f"{folder}/store", size)
            store.set_timeout(timeout)
            yield store, f"file://{folder}/store"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    listener = socket.create_server((host, 0))
    port: int = listener.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=listener.detach()
    )
    yield store, f"tcp://{host}:{port}"


def _make_group(backend: Backend, store: Store, size: int, timeout: timedelta, host: str | None) -> _Group:
    """Rank 0's end. Waits for the others."""
    if backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return cast(_Group, dist.ProcessGroupNCCL(store, 0, size, options))
    gloo: Any = dist.ProcessGroupGloo  # annotated in part only
    options = gloo._Options()
    options._timeout = timeout
    options._devices = [gloo.create_device(hostname=host or "127.0.0.1")]
    return cast(_Group, gloo(store, 0, size, options))


def _beside(call: Callable[[], None], ours: Callable[[], None], deadline_s: float, thread_name: str) -> None:
    """Makes the sink's call while `ours` runs in a thread of its own, which is left alone if the call fails."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            ended.set_result(ours())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True, name=thread_name).start()
    try:
        call()
    except Exception as error:
        if ended.done() and (own := ended.exception()) is not None:
            raise own from error
        raise
    ended.result(deadline_s)


@contextlib.contextmanager
def _on_device_of(buffer: torch.Tensor) -> Generator[None]:
    """Makes the buffer's GPU this thread's, which is the first one at its start."""
    with torch.cuda.device(buffer.device) if buffer.is_cuda else contextlib.nullcontext():
        yield


def _as_group_sink(sink: WeightSink) -> GroupSink:
    if not isinstance(sink, GroupSink):
        raise SyncError(f"{type(sink).__name__} has no join_group and receive_bucket, so it cannot be in a group")
    return sink
