"""Calls of one sink, in order, in a thread of its own."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rl_weights.protocols import WeightSink

logger = logging.getLogger(__name__)

_LEAST_WAIT_S = 0.001


@runtime_checkable
class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(slots=True)
class SinkCall:
    """A call that waits, runs or has ended."""

    phase: str
    """What its time counts as."""
    what: str
    run: Callable[[], None]
    has_ended: threading.Event = field(default_factory=threading.Event)
    started: float | None = None
    """time.monotonic() when it began to run."""
    seconds: float = 0.0


class SinkWorker:
    """Makes one sink's calls one after another, and notes the first that fails or is late.

    After that the sink takes no more calls. One that is stuck is left alone in its thread, which does not keep the
    process alive.

    Args:
        index: position of the sink, for its name if it has none itself.
        sink: the engine.
        deadline_s: what each call may take, and for how long other sinks may wait for this one in all.
        unfinished: a call of an earlier worker from which the sink may not have come back; if so, this one fails.
    """

    def __init__(self, index: int, sink: WeightSink, deadline_s: float, unfinished: SinkCall | None = None) -> None:
        self.index = index
        self.sink = sink
        self.name = sink_name(index, sink)
        self.told_load_s: float | None = None
        """What the sink says that copying into its model took; None if it does not say."""
        self.failure: str | None = None
        """What went wrong, with the sink's name; None while all is well."""
        self.cause: Exception | None = None
        """The sink's own error; None if it was late."""
        self.running: SinkCall | None = None
        """The latest call that was begun."""
        if unfinished is not None and not unfinished.has_ended.is_set():
            self.failure = f"{self.name}: has not come back from {unfinished.what} of an earlier publish"
            self.running = unfinished
        self.calls: list[SinkCall] = []
        """All that were submitted."""
        self._is_late = False
        self._held_up_s = 0.0
        """For how long other sinks have waited for this one."""
        self._deadline_s = deadline_s
        self._calls: queue.SimpleQueue[SinkCall | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, name=f"publish to {self.name}", daemon=True)
        thread.start()

    @property
    def is_stuck(self) -> bool:
        """Whether the sink has not come back from a call."""
        return self.running is not None and not self.running.has_ended.is_set()

    @property
    def idle_since(self) -> float | None:
        """time.monotonic() when a sink that is well had made all its calls; None if it has not, or has failed."""
        last = self.calls[-1]
        if not last.has_ended.is_set() or self.failure is not None or last.started is None:
            return None
        return last.started + last.seconds

    @property
    def deadline_s(self) -> float:
        """What each call may take."""
        return self._deadline_s

    def submit(self, phase: str, what: str, run: Callable[[], None]) -> SinkCall:
        """Queues a call; returns at once.

        Args:
            phase: what its time counts as.
            what: how messages call it.
            run: makes the call.
        """
        call = SinkCall(phase, what, run)
        self.calls.append(call)
        self._calls.put(call)
        return call

    def seconds(self, phase: str) -> float:
        """What the calls of that phase took together."""
        return sum(call.seconds for call in self.calls if call.phase == phase)

    @property
    def load_s(self) -> float:
        """What copying into the model took, as the sink says; all of its calls with buckets if it does not say."""
        return self.seconds("bucket") if self.told_load_s is None else self.told_load_s

    def wait(self, call: SinkCall, others: Sequence["SinkWorker"] = (), since: float = 0.0) -> None:
        """Waits until the call, and those queued before it, have ended or the deadline of one has passed.

        What went wrong is noted in `failure`, not raised: the other sinks go on.

        Args:
            call: of this worker.
            others: who get no further calls meanwhile. The time for which one of them is idle counts as held up by
                this sink, which fails once that passes the deadline, over all such waits.
            since: time.monotonic() from which on that counts.
        """
        for one in self.calls:
            # A failure is noted a moment before its call ends: only a late call is not waited for.
            while not self._is_late and not one.has_ended.is_set():
                self._wait_a_while(one, others, since)
            if one is call:
                break
        if call.has_ended.is_set() and call.started is not None:
            self._held_up_s += _idle_seconds(others, since, call.started + call.seconds)

    def _wait_a_while(self, one: SinkCall, others: Sequence["SinkWorker"], since: float) -> None:
        now = time.monotonic()
        left_s = self._deadline_s - (0.0 if one.started is None else now - one.started)
        reason = f"no answer within {self._deadline_s:g} s"
        if others:
            left_for_others_s = self._deadline_s - self._held_up_s - _idle_seconds(others, since, now)
            if left_for_others_s < left_s:
                left_s = left_for_others_s
                reason += f" for which other sinks waited, {self._held_up_s:.2f} s of them for earlier buckets"
        if left_s > 0:
            one.has_ended.wait(max(left_s, _LEAST_WAIT_S))
            return
        self._is_late = True
        self.failure = self.failure or f"{self.name}: {one.what}: {reason}"
        logger.warning("%s", self.failure)

    def close(self) -> None:
        """Lets the thread end when its last call has."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.failure is None:
                self._make(call)
            call.run = _nothing  # which held on to a bucket
            call.has_ended.set()

    def _make(self, call: SinkCall) -> None:
        call.started = time.monotonic()
        self.running = call
        try:
            call.run()
        except Exception as error:  # noqa: BLE001 - a sink is foreign code; the publisher raises its error by name
            self.failure = self.failure or f"{self.name}: {call.what}: {type(error).__name__}: {error}"
            self.cause = error
            logger.warning("%s", self.failure)
        call.seconds = time.monotonic() - call.started


def wait_for_each(workers: Sequence[SinkWorker], calls: Sequence[SinkCall]) -> None:
    """Waits for one call of each, before which none gets further calls, so that a slow one holds up the others."""
    since = time.monotonic()
    for worker, call in zip(workers, calls, strict=True):
        worker.wait(call, [other for other in workers if other is not worker], since)


def _idle_seconds(workers: Sequence[SinkWorker], since: float, until: float) -> float:
    """How much of that time the sink among them had nothing to do that was done first."""
    idle_since = [at for worker in workers if (at := worker.idle_since) is not None]
    return max(0.0, until - max(since, min(idle_since))) if idle_since else 0.0


def sink_name(index: int, sink: WeightSink) -> str:
    """How messages call the sink at that place."""
    return sink.name if isinstance(sink, _Named) else f"sink {index} ({type(sink).__name__})"


def _nothing() -> None:
    pass
