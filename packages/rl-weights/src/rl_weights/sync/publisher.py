"""Hands the weights of a trainer to inference engines, bucket by bucket."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from rl_weights.buckets import Bucket
from rl_weights.checksum import bucket_checksum
from rl_weights.dtypes import num_bytes
from rl_weights.errors import SyncError
from rl_weights.protocols import ChecksumSink, DeviceSink, GroupSink, TensorSource, TensorSpec, TimedSink, WeightSink
from rl_weights.sync.bucket_buffers import BucketBuffers
from rl_weights.sync.feed import Feed, open_feed
from rl_weights.sync.plan import EngineLayout, SyncPlan, plan_sharded, plan_whole
from rl_weights.sync.report import PhaseSeconds, PublishReport, sum_of
from rl_weights.sync.sharded_source import GivingError, PartsError, ShardedSource
from rl_weights.sync.sink_worker import SinkCall, SinkWorker, sink_name, wait_for_each
from rl_weights.sync.transports.direct import DirectTransport
from rl_weights.sync.transports.transport import FilledBucket, Transport

logger = logging.getLogger(__name__)

_NUM_BUFFERS = 2
_MAX_TENSORS_NAMED = 5


@dataclass(slots=True)
class _Attempt:
    """One pass over all tensors."""

    version: int
    workers: list[SinkWorker]
    is_verified: bool
    clock: PhaseSeconds = field(default_factory=PhaseSeconds)
    buffers_on: str | None = None
    checksums: list[list[str]] = field(default_factory=list[list[str]])
    """[buckets][tensors] what the sinks have to hold, if that is verified."""
    report: PublishReport | None = None

    @property
    def failed(self) -> list[SinkWorker]:
        """Of the sinks that did not take the version."""
        return [worker for worker in self.workers if worker.failure is not None]


class Publisher:
    """Moves all weights of one source to all sinks, under a version.

    Which rank contributes what to which bucket is planned once. Then three things happen at a time: the parts of the
    next bucket are gathered from the trainer's ranks, the present one is converted, and the one before is loaded by
    the sinks. A source that is no `ShardedSource` gives a tensor at a time, so that the first two take turns.
    Buffers on a GPU are there only while a publish lasts; those in host memory stay.

    Each sink is called from a thread of its own. The others, who serve when all have every bucket, wait for a slow one
    for its deadline at most, over all buckets, and then go on without it; on a disk none waits for another.

    A sink that fails refuses to serve, and gets the whole version once more after the others have it, if the source can
    tell its other ranks so (see `ShardedSource.agree`); otherwise with the next publish.

    Args:
        source: the trainer. On every rank a Publisher stands around that rank's source.
        sinks: the engines; used on the writer alone, and may be empty elsewhere.
        bucket_bytes: what a bucket holds at most, unless tensors that travel together are larger. There are two
            buffers of it.
        deadline_s: what each call of a sink may take, and for how long one may keep the others waiting, over all
            buckets of a publish. That counts while the next bucket waits for this one, from when the first of the
            others has nothing left to do. Sinks that are equally slow, or a single one, only have the deadline of each
            call.
        transport: how buckets get to the sinks; by default through the memory of a GPU that they share with the source,
            or else as bytes of host memory. Belongs to this publisher.
        keep_buffers: keeps buffers on a GPU, and their handles and mappings in the engines, between publishes.

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
        transport: Transport | None = None,
        keep_buffers: bool = False,
    ) -> None:
        if bucket_bytes < 1 or deadline_s <= 0:
            raise ValueError(
                f"Publisher: bucket_bytes and deadline_s: expected positive numbers, got {bucket_bytes}, {deadline_s}"
            )
        self._source = source
        self._sinks = tuple(sinks)
        self._deadline_s = deadline_s
        self._transport = transport or DirectTransport()
        self._keep_buffers = keep_buffers
        if isinstance(source, ShardedSource):
            self._plan = plan_sharded(source.rules, source.layout, bucket_bytes)
        else:
            specs: list[TensorSpec] = [(name, dtype, tuple(shape)) for name, dtype, shape in source.tensor_specs()]
            self._plan = plan_whole(specs, bucket_bytes)
        self._num_tensors = sum(len(bucket.specs) for bucket in self._plan.buckets)
        self._buffers: BucketBuffers | None = None
        self._latest_calls: dict[int, SinkCall | None] = {}
        """Of each sink, by its place, the call from which it may not have come back."""

    @property
    def plan(self) -> SyncPlan:
        """What goes where. The engines are in it once `plan_with_engines` has asked them."""
        return self._plan

    def plan_with_engines(self) -> SyncPlan:
        """The plan with every engine's ranks, which are asked for and have to have started. For the writer."""
        engines = tuple(
            EngineLayout(name=sink_name(index, sink), num_ranks=sink.num_ranks() if isinstance(sink, GroupSink) else 1)
            for index, sink in enumerate(self._sinks)
        )
        self._plan = replace(self._plan, engines=engines)
        return self._plan

    def publish(self, version: int, *, verify: bool = False) -> PublishReport:
        """Hands over the present weights. Collective: every rank of the source calls it.

        Waits until every sink serves `version` or has failed.

        Args:
            version: that the sinks serve the weights as; an integer from 0 on, and a new one for new weights. It may
                be published again, and after a jump back in training, as to an earlier checkpoint, a lower one may
                follow; but who picks engines by "this version or a later one", as `rl_rollout.EnginePool` does, takes
                one that missed the lower version for fresh.
            verify: has each sink tell the checksum of every tensor that it holds then, and compares it with that of
                the source's; see `ChecksumSink`. A sink whose tensors differ, or that does not tell, is called with
                `begin_update` once more, so that it serves nothing, and has failed.

        Raises:
            SyncError: naming the source's tensor or the sinks that failed. Sinks that did not fail serve `version`
                unless it was the source that failed. Where a rank does not hold what the plan says, every rank raises
                one before a sink is called; so it does for a version that is none.
        """
        if type(version) is not int or version < 0:
            raise SyncError(f"publish: version: expected an integer >= 0, got {version!r}")
        try:
            attempt = self._attempt(version, range(len(self._sinks)), verify)
        except PartsError:  # on every rank alike
            raise
        except Exception as error:
            # The others ask the writer once they have given their parts. So does a rank that came to the end with them.
            if self._source.is_writer or isinstance(error, GivingError):
                with suppress(RuntimeError):  # a rank is gone, and the first error says more
                    self._agree(False)
            raise
        if self._agree(any(not one.is_stuck for one in attempt.failed)):
            attempt = self._try_again(attempt)
        return self._outcome(attempt)

    def _try_again(self, first: _Attempt) -> _Attempt:
        """Hands the version over once more, to the sinks that failed and came back."""
        stuck = [worker for worker in first.failed if worker.is_stuck]
        again = [worker.index for worker in first.failed if not worker.is_stuck]
        if self._source.is_writer:
            logger.warning("version %d goes once more to %d sinks that failed", first.version, len(again))
        second = self._attempt(first.version, again, first.is_verified)
        second.workers += stuck
        assert first.report is not None
        assert second.report is not None
        second.report = sum_of(first.report, second.report)
        return second

    def close(self) -> None:
        """Frees the buffers, and what the transport leaves on a disk. No sink is called."""
        self._transport.close()
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None

    def _agree(self, is_tried_again: bool) -> bool:
        if not isinstance(self._source, ShardedSource):
            return False
        return bool(self._source.agree(int(is_tried_again)))

    def _outcome(self, attempt: _Attempt) -> PublishReport:
        failed = attempt.failed
        if failed:
            messages = "; ".join(str(worker.failure) for worker in failed)
            raise SyncError(
                f"version {attempt.version}: {len(failed)} of {len(self._sinks)} sinks failed: {messages}"
            ) from failed[0].cause
        assert attempt.report is not None
        return attempt.report

    def _attempt(self, version: int, sinks: Sequence[int], verify: bool) -> _Attempt:
        """Goes through all tensors once, for the sinks at these places."""
        attempt = _Attempt(version, [], verify)
        if not self._source.is_writer:
            with attempt.clock.phase("gather"):
                deque(self._gathered(), maxlen=0)
            attempt.report = self._report(attempt)
            return attempt
        feed = open_feed(self._source, self._plan, attempt.clock, f"version {version}")
        attempt.workers = [
            SinkWorker(index, self._sinks[index], self._deadline_s, self._latest_calls.get(index)) for index in sinks
        ]
        try:
            self._hand_over(attempt, feed)
            attempt.report = self._report(attempt)
            if verify:
                self._verify(attempt)
        except Exception:
            # The source failed, or is not as it says. Its other ranks still gather, so this one does too; and a sink
            # that still loads would be met by the next publish, which takes the same buffers.
            _finish_after_error(feed, version)
            for worker in attempt.workers:
                for call in worker.calls:
                    worker.wait(call)
            raise
        finally:
            self._free_device_buffers(attempt.workers)
            for worker in attempt.workers:
                self._latest_calls[worker.index] = worker.running
                worker.close()
        return attempt

    def _gathered(self) -> Iterator[object]:
        if isinstance(self._source, ShardedSource):
            return self._source.gather(self._plan)
        return self._source.iter_tensors()

    def _hand_over(self, attempt: _Attempt, feed: Feed) -> None:
        transport, workers, clock = self._transport, attempt.workers, attempt.clock
        transport.begin(attempt.version, self._plan, workers)
        with clock.phase("gather"):
            weights_on = feed.device()
        buffers = self._make_buffers(attempt, weights_on)
        sent: list[list[SinkCall]] = []
        for index, bucket in enumerate(self._plan.buckets):
            if index >= _NUM_BUFFERS:
                _wait_for_bucket(workers, sent[index - _NUM_BUFFERS])
            buffer = buffers[index][: bucket.num_bytes]
            feed.fill(index, buffer)
            with clock.phase("checksum"):
                checksum = bucket_checksum(buffer)
            if attempt.is_verified:
                with clock.phase("verify"):
                    attempt.checksums.append(_checksums(bucket, buffer))
            where = f"{index} of {len(self._plan.buckets)}, from {bucket.specs[0][0]}"
            filled = FilledBucket(index=index, bucket=bucket, buffer=buffer, checksum=checksum, where=where)
            sent.append(transport.send(filled, workers))
        feed.finish()
        for calls in sent[-_NUM_BUFFERS:]:
            _wait_for_bucket(workers, calls)
        _wait(workers, transport.commit(attempt.version, self._num_tensors, workers))
        _ask_for_seconds(workers)

    def _verify(self, attempt: _Attempt) -> None:
        with attempt.clock.phase("verify"):
            calls = [
                worker.submit("verify", "tensor_checksums()", partial(self._compare_or_stop, worker.sink, attempt))
                for worker in attempt.workers
            ]
            _wait(attempt.workers, calls)
        assert attempt.report is not None
        attempt.report = replace(attempt.report, verify_s=attempt.clock["verify"])

    def _compare_or_stop(self, sink: WeightSink, attempt: _Attempt) -> None:
        """Has a sink that does not hold the source's weights, or cannot say so, serve nothing."""
        try:
            self._compare(sink, attempt.checksums)
        except Exception as error:
            try:
                sink.begin_update(attempt.version)
            except Exception as other:  # noqa: BLE001 - foreign code; both errors are told
                raise SyncError(f"{error}; and it may still serve them: begin_update: {other!r}") from error
            raise

    def _compare(self, sink: WeightSink, expected: Sequence[Sequence[str]]) -> None:
        if not isinstance(sink, ChecksumSink):
            raise SyncError(f"{type(sink).__name__} has no tensor_checksums, so its weights cannot be verified")
        different: list[str] = []
        for bucket, ours in zip(self._plan.buckets, expected, strict=True):
            theirs = sink.tensor_checksums(bucket.specs)
            different += [
                name for (name, _, _), one, other in zip(bucket.specs, ours, theirs, strict=True) if one != other
            ]
        if different:
            named = ", ".join(different[:_MAX_TENSORS_NAMED])
            raise SyncError(f"{len(different)} of {self._num_tensors} tensors are not the source's: {named}")

    def _make_buffers(self, attempt: _Attempt, weights_on: torch.device) -> BucketBuffers:
        """Buffers as large as the largest bucket; those of an earlier publish if it left some."""
        device = self._transport.bucket_device(weights_on, attempt.workers)
        attempt.buffers_on = str(device)
        if self._buffers is None or self._buffers.device != device:
            self._buffers = BucketBuffers(
                device,
                max(bucket.num_bytes for bucket in self._plan.buckets),
                min(_NUM_BUFFERS, len(self._plan.buckets)),
                is_filled_from_gpu=weights_on.type == "cuda",
            )
        return self._buffers

    def _free_device_buffers(self, workers: Sequence[SinkWorker]) -> None:
        """Leaves the memory of a GPU to others until the next publish, once no sink maps it."""
        if self._buffers is None or self._buffers.device.type != "cuda" or self._keep_buffers:
            return
        sinks = [(worker, worker.sink) for worker in workers if isinstance(worker.sink, DeviceSink)]
        calls = [(worker, worker.submit("let go", "let_go()", sink.let_go)) for worker, sink in sinks]
        for worker, call in calls:
            worker.wait(call)
        self._buffers.free()
        self._buffers = None

    def _report(self, attempt: _Attempt) -> PublishReport:
        def slowest(phase: str) -> float:
            return max((worker.seconds(phase) for worker in attempt.workers), default=0.0)

        clock, is_writer = attempt.clock, self._source.is_writer
        load_s = max((worker.load_s for worker in attempt.workers), default=0.0)
        return PublishReport(
            version=attempt.version,
            transport=self._transport.name,
            num_tensors=self._num_tensors,
            num_bytes=sum(bucket.num_bytes for bucket in self._plan.buckets),
            num_moved_bytes=self._transport.moved_bytes() if is_writer else 0,
            num_buckets=len(self._plan.buckets),
            buffers_on=attempt.buffers_on,
            begin_s=slowest("join") + slowest("begin"),
            gather_s=clock["gather"],
            convert_s=clock["convert"],
            checksum_s=clock["checksum"],
            transfer_s=(self._transport.write_seconds() if is_writer else 0.0) + max(0.0, slowest("bucket") - load_s),
            load_s=load_s,
            flush_s=slowest("flush"),
            total_s=clock.total - clock["verify"],
        )


def _wait_for_bucket(workers: Sequence[SinkWorker], calls: Sequence[SinkCall]) -> None:
    if calls:  # none where the sinks load from a disk
        wait_for_each(workers, calls)


def _wait(workers: Sequence[SinkWorker], calls: Sequence[SinkCall]) -> None:
    for worker, call in zip(workers, calls, strict=True):
        worker.wait(call)


def _finish_after_error(feed: Feed, version: int) -> None:
    try:
        feed.finish()
    except SyncError:
        pass  # of course there are tensors left; and a rank that cannot give its parts says so itself
    except Exception as error:  # noqa: BLE001 - foreign code; the first error is the one to be raised
        logger.warning("version %d: the source, which has failed, did not come to its end either: %r", version, error)


def _ask_for_seconds(workers: Sequence[SinkWorker]) -> None:
    """Notes what each sink says that its loading took."""

    def ask(worker: SinkWorker) -> None:
        if isinstance(worker.sink, TimedSink):
            worker.told_load_s = worker.sink.update_seconds().get("load", 0.0)

    _wait(workers, [worker.submit("ask", "update_seconds()", partial(ask, worker)) for worker in workers])


def _checksums(bucket: Bucket, buffer: torch.Tensor) -> list[str]:
    """[tensors] the checksum of each."""
    found: list[str] = []
    start = 0
    for _, dtype, shape in bucket.specs:
        stop = start + num_bytes(dtype, shape)
        found.append(bucket_checksum(buffer[start:stop]))
        start = stop
    return found
