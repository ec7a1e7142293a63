"""Calls of one sink, in order, in a thread of its own."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rl_weights.protocols import WeightSink

logger = logging.getLogger(__name__)


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
        deadline_s: what each call may take.
        unfinished: a call of an earlier worker from which the sink may not have come back; if so, this one fails.
    """

    def __init__(self, index: int, sink: WeightSink, deadline_s: float, unfinished: SinkCall | None = None) -> None:
        self.index = index
        self.sink = sink
        self.name = sink_name(index, sink)
        self.load_s = 0.0
        """What the sink says that copying into its model took."""
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
        self._deadline_s = deadline_s
        self._calls: queue.SimpleQueue[SinkCall | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, name=f"publish to {self.name}", daemon=True)
        thread.start()

    @property
    def is_stuck(self) -> bool:
        """Whether the sink has not come back from a call."""
        return self.running is not None and not self.running.has_ended.is_set()

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

    def wait(self, call: SinkCall) -> None:
        """Waits until the call, and those queued before it, have ended or the deadline of one has passed.

        What went wrong is noted in `failure`, not raised: the other sinks go on.
        """
        for one in self.calls:
            spent = 0.0 if one.started is None else time.monotonic() - one.started
            # A failure is noted a moment before its call ends: only a late call is not waited for.
            if not self._is_late and not one.has_ended.wait(max(0.0, self._deadline_s - spent)):
                self._is_late = True
                self.failure = self.failure or f"{self.name}: {one.what}: no answer within {self._deadline_s:g} s"
                logger.warning("%s", self.failure)
            if one is call:
                return

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


def sink_name(index: int, sink: WeightSink) -> str:
    """How messages call the sink at that place."""
    return sink.name if isinstance(sink, _Named) else f"sink {index} ({type(sink).__name__})"


def _nothing() -> None:
    pass
