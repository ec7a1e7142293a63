"""What every transport does."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from rl_weights.buckets import Bucket
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.sink_worker import SinkCall, SinkWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledBucket:
    """A bucket with its content."""

    index: int
    bucket: Bucket
    buffer: torch.Tensor
    """[bytes] uint8."""
    checksum: str
    where: str
    """How messages call it."""


class Transport(Protocol):
    """Hands the buckets of one version after the other to sinks. Its calls to a sink go through the sink's worker.

    Calls come in this order: `begin`, `bucket_device`, `send` for each bucket, `commit`. A version may end early, where
    the source fails; then `begin` comes again.
    """

    name: str

    def bucket_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """Where the buffers of buckets have to lie."""
        ...

    def begin(self, version: int, plan: SyncPlan, workers: Sequence[SinkWorker]) -> None:
        """Prepares a version; what waits for sinks is queued."""
        ...

    def send(self, filled: FilledBucket, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """Calls, one of each worker, after whose end the buffer may be filled anew."""
        ...

    def commit(self, version: int, num_tensors: int, workers: Sequence[SinkWorker]) -> list[SinkCall]:
        """Calls, one of each worker, with whose end the sinks serve the version."""
        ...

    def moved_bytes(self) -> int:
        """What travelled to each sink, or to the disk, for the latest version."""
        ...

    def write_seconds(self) -> float:
        """What this process spent on handing the latest version over, beside the sinks' calls."""
        ...

    def close(self) -> None:
        """Leaves nothing behind; no sink is called."""
        ...


def submit_begin(version: int, workers: Sequence[SinkWorker]) -> None:
    """Queues `begin_update` for every sink."""
    for worker in workers:
        worker.submit("begin", f"begin_update({version})", partial(worker.sink.begin_update, version))


def submit_commit(version: int, num_tensors: int, workers: Sequence[SinkWorker]) -> list[SinkCall]:
    """Queues `commit_update` for every sink."""
    return [
        worker.submit("flush", f"commit_update({version})", partial(worker.sink.commit_update, version, num_tensors))
        for worker in workers
    ]
