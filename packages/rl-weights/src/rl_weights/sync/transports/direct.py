"""`cuda_ipc` and `host`: a sink is called with the bucket itself."""

from collections.abc import Sequence
from functools import partial

import torch

from rl_weights.errors import SyncError
from rl_weights.protocols import DeviceSink
from rl_weights.sync.bucket_buffers import choose_device
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.sink_worker import SinkCall, SinkWorker
from rl_weights.sync.transports.transport import FilledBucket, submit_begin, submit_commit


class DirectTransport:
    """The bucket lies on the GPU of the weights if every sink reads that GPU's memory (see `DeviceSink`).

    Otherwise it lies in host memory, and how its bytes get to the engine is the sink's affair.

    Args:
        allow_gpu: False keeps to host memory.
        allow_host: False makes a sink that is on no GPU an error. Sinks on other GPUs are then to read the memory of
            the weights' one over NVLink or PCIe; one that cannot says so when the first bucket comes.
    """

    def __init__(self, *, allow_gpu: bool = True, allow_host: bool = True) -> None:
        self.name = "auto" if allow_gpu and allow_host else "cuda_ipc" if allow_gpu else "host"
        self._allow_gpu = allow_gpu
        self._allow_host = allow_host
        self._device_for: dict[frozenset[int], torch.device] = {}
        """By the sinks' identities; a version that is tried again goes to some of them."""
        self._moved_bytes = 0

    def bucket_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """See `Transport`. The answer for these sinks stands unless one failed to say where it is."""
        if not self._allow_gpu:
            return torch.device("cpu")
        sinks = frozenset(id(worker.sink) for worker in workers)
        if sinks in self._device_for:
            return self._device_for[sinks]
        uuids = _uuids(workers) if weights_on.type == "cuda" else {}
        device = choose_device(weights_on, uuids, allow_peers=not self._allow_host)
        is_known = all(worker.failure is None for worker in workers)
        if not self._allow_host and device.type != "cuda" and is_known:
            raise SyncError(f"cuda_ipc: weights are on {weights_on}, and not every sink reads a GPU's memory")
        if is_known:
            self._device_for[sinks] = device
        return device

    def begin(self, version: int, plan: SyncPlan, workers: Sequence[SinkWorker]) -> None:
        """See `Transport`."""
        self._moved_bytes = 0
        submit_begin(version, workers)

    def send(self, filled: FilledBucket, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """See `Transport`."""
        self._moved_bytes += filled.bucket.num_bytes
        arguments = (filled.bucket.specs, filled.buffer, filled.checksum)
        return [
            worker.submit("bucket", f"load_bucket {filled.where}", partial(worker.sink.load_bucket, *arguments))
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


def _uuids(workers: Sequence[SinkWorker]) -> dict[str, str | None]:
    """Name of each sink -> UUID of the GPU whose memory it reads. Waits for them."""
    uuids: dict[str, str | None] = {}

    def ask(worker: SinkWorker) -> None:
        uuids[worker.name] = worker.sink.device_uuid() if isinstance(worker.sink, DeviceSink) else None

    calls = [worker.submit("ask", "device_uuid()", partial(ask, worker)) for worker in workers]
    for worker, call in zip(workers, calls, strict=True):
        worker.wait(call)
    return uuids
