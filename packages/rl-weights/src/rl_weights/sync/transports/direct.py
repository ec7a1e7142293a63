"""`cuda_ipc` and `host`: a sink is called with the bucket itself."""

import logging
import os
from collections.abc import Sequence
from functools import partial

import torch

from rl_weights.checksum import bucket_checksum
from rl_weights.errors import SyncError
from rl_weights.protocols import DeviceSink
from rl_weights.sync.bucket_buffers import BucketBuffers
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.sink_worker import SinkCall, SinkWorker, wait_for_each
from rl_weights.sync.transports.transport import FilledBucket, submit_begin, submit_commit

logger = logging.getLogger(__name__)

_HOST = torch.device("cpu")
_PROBE_BYTES = 2**20


class DirectTransport:
    """The bucket lies on the GPU of the weights if every sink reads that GPU's memory (see `DeviceSink`).

    Sinks on other GPUs read it over NVLink or PCIe. If one cannot, the bucket lies in host memory, and how its bytes
    get to the engine is the sink's affair.

    Args:
        allow_gpu: False keeps to host memory.
        allow_host: False makes a sink that cannot read the memory of that GPU an error.
    """

    def __init__(self, *, allow_gpu: bool = True, allow_host: bool = True) -> None:
        self.name = "auto" if allow_gpu and allow_host else "cuda_ipc" if allow_gpu else "host"
        self._allow_gpu = allow_gpu
        self._allow_host = allow_host
        self._device_for: dict[frozenset[int], torch.device] = {}
        """By the sinks' identities; a version that is tried again goes to some of them."""
        self._moved_bytes = 0

    def bucket_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """See `Transport`. Sinks are asked once, and again if one failed before it had answered."""
        if not self._allow_gpu or (weights_on.type != "cuda" and self._allow_host):
            return _HOST
        sinks = frozenset(id(worker.sink) for worker in workers)
        if sinks in self._device_for:
            return self._device_for[sinks]
        refusals = _refusals(weights_on, workers)
        is_known = all(worker.failure is None for worker in workers)
        reasons = "; ".join(f"{name}: {refusal}" for name, refusal in refusals.items())
        if refusals and is_known and not self._allow_host:
            raise SyncError(f"cuda_ipc: weights are on {weights_on}, and not every sink reads its memory: {reasons}")
        device = _HOST if refusals else weights_on
        if is_known:
            self._device_for[sinks] = device
            if refusals:
                logger.warning("weights on %s travel through host memory, because of %s", weights_on, reasons)
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


def _refusals(weights_on: torch.device, workers: Sequence[SinkWorker]) -> dict[str, str]:
    """Name of each sink that cannot read memory of that device -> why. Waits for them."""
    if weights_on.type != "cuda":
        return {worker.name: f"there is no GPU memory on {weights_on}" for worker in workers}
    refusals: dict[str, str] = {}
    buffers = BucketBuffers(weights_on, _PROBE_BYTES, 1, is_filled_from_gpu=True)
    buffers[0].copy_(torch.frombuffer(bytearray(os.urandom(_PROBE_BYTES)), dtype=torch.uint8))
    checksum = bucket_checksum(buffers[0])
    torch.cuda.synchronize(weights_on)  # sinks read without waiting for what is queued here

    def ask(worker: SinkWorker) -> None:
        if not isinstance(worker.sink, DeviceSink):
            refusals[worker.name] = "takes host memory alone"
            return
        refusal = worker.sink.check_buffer(buffers[0], checksum)
        worker.sink.let_go()
        if refusal is not None:
            refusals[worker.name] = refusal

    wait_for_each(workers, [worker.submit("ask", "check_buffer()", partial(ask, worker)) for worker in workers])
    buffers.free()
    return refusals
