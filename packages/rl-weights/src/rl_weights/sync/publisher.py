"""Hands the weights of a trainer to inference engines, bucket by bucket."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import torch

from rl_weights.buckets import Bucket, plan_buckets
from rl_weights.checksum import bucket_checksum
from rl_weights.dtypes import dtype_name
from rl_weights.errors import SyncError
from rl_weights.protocols import ComparingSink, DeviceSink, TensorSource, TensorSpec, WeightSink
from rl_weights.sync.bucket_buffers import BucketBuffers, choose_device, copy_into
from rl_weights.sync.sink_worker import SinkCall, SinkWorker

_NUM_BUFFERS = 2

type _TakeBucket = Callable[[WeightSink, Sequence[TensorSpec], torch.Tensor, str], None]
"""What a sink does with a bucket: load or compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What one publish moved, and where its time went. On ranks that are not the writer only `gather_s` counts."""

    version: int
    num_tensors: int
    num_bytes: int
    num_buckets: int
    buffers_on: str | None
    """Device of the buffers, "cpu" or a GPU such as "cuda:0"; None on ranks that are not the writer."""
    begin_s: float
    """Slowest sink's `begin_update`; it runs beside the first gather."""
    gather_s: float
    """Waiting for the source's tensors: gathering over the trainer's ranks and converting."""
    flatten_s: float
    """Copying tensors into buckets; on a GPU only the queueing of the copies."""
    checksum_s: float
    """Checksumming the buckets; on a GPU also waiting for the copies."""
    load_s: float
    """Slowest sink's `load_bucket` calls together; they run beside gathering and flattening."""
    commit_s: float
    """Slowest sink's `commit_update`."""
    total_s: float
    """From start to end, without `verify_s`; less than the sum where phases ran beside each other."""
    verify_s: float = 0.0
    """Comparing, if that was asked for."""


@dataclass(slots=True)
class _Progress:
    """What is measured and in flight during one publish."""

    workers: list[SinkWorker]
    buffers_on: str | None = None
    gather_s: float = 0.0
    flatten_s: float = 0.0
    checksum_s: float = 0.0
    begin: list[SinkCall] = field(default_factory=list[SinkCall])
    loads: list[list[SinkCall]] = field(default_factory=list[list[SinkCall]])
    """A list of calls, one a worker, for each bucket so far."""
    commit: list[SinkCall] = field(default_factory=list[SinkCall])


class Publisher:
    """Moves all weights of one source to all sinks, under a version.

    While the sinks load one bucket the next is gathered and flattened into a second buffer. Each sink is called from
    a thread of its own, so a slow one holds up the others by at most its deadline. The buffers lie on the GPU of the
    weights if every sink says that it reads its memory (see `DeviceSink`), and only while a publish lasts; in host
    memory, where they stay, otherwise.

    Args:
        source: the trainer. On every rank a Publisher stands around that rank's source.
        sinks: the engines; used on the writer alone, and may be empty elsewhere.
        bucket_bytes: what a bucket holds at most, unless one tensor is larger. There are two buffers of it.
        deadline_s: what each call of a sink may take.

    Example:
        >>> publisher = Publisher(InMemorySource({"weight": torch.ones(4)}), [sink := InMemorySink()])
        >>> publisher.publish(version=1).num_bytes
        16
    """

    def __init__(
        self,
        source: TensorSource,
        sinks: Sequence[WeightSink],
        *,
        bucket_bytes: int = 2**30,
        deadline_s: float = 300.0,
    ) -> None:
        if bucket_bytes < 1 or deadline_s <= 0:
            raise ValueError(
                f"Publisher: bucket_bytes and deadline_s: expected positive numbers, got {bucket_bytes}, {deadline_s}"
            )
        self._source = source
        self._sinks = tuple(sinks)
        self._deadline_s = deadline_s
        self._specs: tuple[TensorSpec, ...] = tuple(
            (name, dtype, tuple(shape)) for name, dtype, shape in source.tensor_specs()
        )
        self._buckets = plan_buckets(self._specs, bucket_bytes)
        self._device: torch.device | None = None
        """Where the buffers lie, once every sink has said where it is."""
        self._buffers: BucketBuffers | None = None
        self._latest_calls: list[SinkCall | None] = [None] * len(self._sinks)

    def publish(self, version: int, *, verify: bool = False) -> PublishReport:
        """Hands over the present weights. Collective: every rank of the source calls it.

        Waits until every sink serves `version` or has failed.

        Args:
            version: that the sinks serve the weights as.
            verify: sends everything a second time for each sink to compare with what it holds; see `ComparingSink`.

        Raises:
            SyncError: naming the source's tensor or the sinks that failed. Sinks that did not fail serve `version`
                unless it was the source that failed.
        """
        try:
            report = self._pass(version, self._hand_over)
        except Exception:
            if verify:  # whatever it was, the other ranks are in their second iteration
                for _ in self._source.iter_tensors():
                    pass
            raise
        if not verify:
            return report
        return replace(report, verify_s=self._pass(version, self._compare).total_s)

    def _pass(
        self, version: int, run: Callable[[int, Iterator[tuple[str, torch.Tensor]], _Progress], None]
    ) -> PublishReport:
        """Goes through all tensors once."""
        started = time.monotonic()
        if not self._source.is_writer:
            for _ in self._source.iter_tensors():
                pass
            seconds = time.monotonic() - started
            return self._report(version, _Progress([], gather_s=seconds), started)
        workers = [
            SinkWorker(index, sink, self._deadline_s, unfinished)
            for index, (sink, unfinished) in enumerate(zip(self._sinks, self._latest_calls, strict=True))
        ]
        progress = _Progress(workers)
        tensors = self._source.iter_tensors()
        try:
            run(version, tensors, progress)
        except Exception:
            # The source failed, or is not as it says. Its other ranks still iterate, so this one does too; and a sink
            # that still loads would be met by the next publish, which takes the same buffers.
            for _ in tensors:
                pass
            for calls in (progress.begin, *progress.loads):
                _wait(workers, calls)
            raise
        finally:
            self._free_device_buffers(workers)
            self._latest_calls = [worker.running for worker in workers]
            for worker in workers:
                worker.close()
        failed = [worker for worker in workers if worker.failure is not None]
        if failed:
            messages = "; ".join(str(worker.failure) for worker in failed)
            raise SyncError(
                f"version {version}: {len(failed)} of {len(self._sinks)} sinks failed: {messages}"
            ) from failed[0].cause
        return self._report(version, progress, started)

    def _hand_over(self, version: int, tensors: Iterator[tuple[str, torch.Tensor]], progress: _Progress) -> None:
        progress.begin = [
            worker.submit(f"begin_update({version})", partial(worker.sink.begin_update, version))
            for worker in progress.workers
        ]
        self._send(version, tensors, progress, "load_bucket", _load_bucket)
        self._wait_for_last_buckets(progress)
        progress.commit = [
            worker.submit(f"commit_update({version})", partial(worker.sink.commit_update, version, len(self._specs)))
            for worker in progress.workers
        ]
        _wait(progress.workers, progress.commit)

    def _compare(self, version: int, tensors: Iterator[tuple[str, torch.Tensor]], progress: _Progress) -> None:
        self._send(version, tensors, progress, "compare_bucket", _compare_bucket)
        self._wait_for_last_buckets(progress)

    def _send(
        self,
        version: int,
        tensors: Iterator[tuple[str, torch.Tensor]],
        progress: _Progress,
        what: str,
        take: _TakeBucket,
    ) -> None:
        before = time.monotonic()
        first = next(tensors, None)
        progress.gather_s += time.monotonic() - before
        if first is None:
            raise SyncError(f"version {version}: the source gave none of its {len(self._specs)} tensors")
        buffers = self._make_buffers(first[1].device, progress)
        tensors = chain((first,), tensors)
        for index, bucket in enumerate(self._buckets):
            if index >= _NUM_BUFFERS:
                self._wait_for_bucket(index - _NUM_BUFFERS, progress)
            buffer = buffers[index][: bucket.num_bytes]
            self._fill(bucket, buffer, tensors, version, progress)
            before = time.monotonic()
            expected = bucket_checksum(buffer)
            progress.checksum_s += time.monotonic() - before
            progress.loads.append(
                [
                    worker.submit(
                        f"{what} {index} of {len(self._buckets)}, from {bucket.specs[0][0]}",
                        partial(take, worker.sink, bucket.specs, buffer, expected),
                    )
                    for worker in progress.workers
                ]
            )
        if (extra := next(tensors, None)) is not None:
            raise SyncError(f"version {version}: the source gave {extra[0]} after all of its {len(self._specs)} specs")

    def _wait_for_bucket(self, index: int, progress: _Progress) -> None:
        if index == 0 and progress.begin:
            _wait(progress.workers, progress.begin)
        _wait(progress.workers, progress.loads[index])

    def _wait_for_last_buckets(self, progress: _Progress) -> None:
        for index in range(max(0, len(progress.loads) - _NUM_BUFFERS), len(progress.loads)):
            self._wait_for_bucket(index, progress)

    def _make_buffers(self, weights_on: torch.device, progress: _Progress) -> BucketBuffers:
        """Buffers as large as the largest bucket; those of an earlier publish if it left some."""
        device = self._device or self._ask_for_device(weights_on, progress.workers)
        progress.buffers_on = str(device)
        if self._buffers is None or self._buffers.device != device:
            self._buffers = BucketBuffers(
                device,
                max(bucket.num_bytes for bucket in self._buckets),
                min(_NUM_BUFFERS, len(self._buckets)),
                is_filled_from_gpu=weights_on.type == "cuda",
            )
        return self._buffers

    def _ask_for_device(self, weights_on: torch.device, workers: Sequence[SinkWorker]) -> torch.device:
        """Where the buffers lie. The answer stands unless a sink failed to say where it is."""
        uuids: dict[str, str | None] = {}

        def ask(worker: SinkWorker) -> None:
            uuids[worker.name] = worker.sink.device_uuid() if isinstance(worker.sink, DeviceSink) else None

        if weights_on.type == "cuda":
            _wait(workers, [worker.submit("device_uuid()", partial(ask, worker)) for worker in workers])
        device = choose_device(weights_on, uuids)
        if all(worker.failure is None for worker in workers):
            self._device = device
        return device

    def _free_device_buffers(self, workers: Sequence[SinkWorker]) -> None:
        """Leaves the memory of a GPU to others until the next publish, once no sink maps it."""
        if self._buffers is None or self._buffers.device.type != "cuda":
            return
        sinks = [(worker, worker.sink) for worker in workers if isinstance(worker.sink, DeviceSink)]
        calls = [(worker, worker.submit("let_go()", sink.let_go)) for worker, sink in sinks]
        for worker, call in calls:
            worker.wait(call)
        self._buffers.free()
        self._buffers = None

    def _fill(
        self,
        bucket: Bucket,
        buffer: torch.Tensor,
        tensors: Iterator[tuple[str, torch.Tensor]],
        version: int,
        progress: _Progress,
    ) -> None:
        stop = 0
        for spec in bucket.specs:
            before = time.monotonic()
            got = next(tensors, None)
            between = time.monotonic()
            _check(spec, got, version)
            assert got is not None
            stop = copy_into(buffer, stop, got[1])
            progress.gather_s += between - before
            progress.flatten_s += time.monotonic() - between

    def _report(self, version: int, progress: _Progress, started: float) -> PublishReport:
        loads_of_sinks = zip(*progress.loads, strict=True)
        return PublishReport(
            version=version,
            num_tensors=len(self._specs),
            num_bytes=sum(bucket.num_bytes for bucket in self._buckets),
            num_buckets=len(self._buckets),
            buffers_on=progress.buffers_on,
            begin_s=max((call.seconds for call in progress.begin), default=0.0),
            gather_s=progress.gather_s,
            flatten_s=progress.flatten_s,
            checksum_s=progress.checksum_s,
            load_s=max((sum(call.seconds for call in calls) for calls in loads_of_sinks), default=0.0),
            commit_s=max((call.seconds for call in progress.commit), default=0.0),
            total_s=time.monotonic() - started,
        )


def _wait(workers: Sequence[SinkWorker], calls: Sequence[SinkCall]) -> None:
    for worker, call in zip(workers, calls, strict=True):
        worker.wait(call)


def _check(spec: TensorSpec, got: tuple[str, torch.Tensor] | None, version: int) -> None:
    name, dtype, shape = spec
    if got is None:
        raise SyncError(f"version {version}: the source ended before {name}")
    actual = (got[0], dtype_name(got[1].dtype), tuple(got[1].shape))
    if actual != (name, dtype, shape):
        raise SyncError(f"version {version}: the source's specs say {(name, dtype, shape)}, it gave {actual}")


def _load_bucket(sink: WeightSink, specs: Sequence[TensorSpec], buffer: torch.Tensor, expected: str) -> None:
    sink.load_bucket(specs, buffer, expected)


def _compare_bucket(sink: WeightSink, specs: Sequence[TensorSpec], buffer: torch.Tensor, expected: str) -> None:
    if not isinstance(sink, ComparingSink):
        raise SyncError(f"{type(sink).__name__} has no compare_bucket, so its weights cannot be verified")
    sink.compare_bucket(specs, buffer, expected)
