"""Worker processes that do work ahead of its use, as its user sees them."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import BinaryIO, cast

from rl_data.ahead.frames import loads, read_body, write_frame
from rl_data.errors import RLDataError

_MAX_PART = 64
"""Arguments in one message at most: results of a part come all at once."""


class Ahead[Argument, Result]:
    """Calls a function in worker processes and gives the results in the order in which the calls were submitted.

    The workers are plain children, as those of `rl_data.grading` are, and do not import the caller's main program. They
    end with this object, or with this process however it ends.

    Args:
        make: makes the function, in each worker; it is pickled, so it must be importable there.
        num_workers: how many processes.
    """

    def __init__(self, make: Callable[[], Callable[[Argument], Result]], num_workers: int) -> None:
        assert num_workers > 0
        self._workers = [_Worker(make) for _ in range(num_workers)]
        self._parts: deque[_Worker] = deque()  # the workers that have parts to give back, in order
        self._results: deque[Result] = deque()
        self._next_worker = 0
        self.num_waiting = 0
        """Results that were submitted and not taken yet."""

    def submit(self, arguments: Sequence[Argument]) -> None:
        """Gives calls to the workers, in parts, and does not wait.

        Raises:
            RLDataError: if a worker has died.
        """
        size = max(1, min(_MAX_PART, -(-len(arguments) // (2 * len(self._workers)))))
        for start in range(0, len(arguments), size):
            worker = self._workers[self._next_worker]
            self._next_worker = (self._next_worker + 1) % len(self._workers)
            worker.send(list(arguments[start : start + size]))
            self._parts.append(worker)
        self.num_waiting += len(arguments)

    def take(self) -> Result:
        """The next result; waits for it.

        Raises:
            RLDataError: if its worker has died; the message ends with what it wrote last.
        """
        assert self.num_waiting > 0
        if not self._results:
            self._results.extend(cast("list[Result]", self._parts.popleft().receive()))
        self.num_waiting -= 1
        return self._results.popleft()

    def forget(self) -> None:
        """Waits for all results that were not taken, and throws them away."""
        while self._parts:
            self._parts.popleft().receive()
        self._results.clear()
        self.num_waiting = 0

    def close(self) -> None:
        """Ends the workers. What was not taken is lost."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """One child, and a thread that reads what it answers: the child never waits for its results to be taken."""

    def __init__(self, make: object) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rl_data.ahead"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self.end = weakref.finalize(self, _end, self._process)
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        assert self._process.stdout is not None
        threading.Thread(
            target=_read_answers, args=(cast(BinaryIO, self._process.stdout), self._answers), daemon=True
        ).start()
        self.send(make)

    def send(self, value: object) -> None:
        assert self._process.stdin is not None
        try:
            write_frame(cast(BinaryIO, self._process.stdin), value)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> object:
        body = self._answers.get()
        if body is None:
            raise self._death()
        return loads(body)

    def _death(self) -> RLDataError:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return RLDataError(f"a data worker died: {lines[-1] if lines else 'it left no message'}")


def _read_answers(source: BinaryIO, answers: SimpleQueue[bytes | None]) -> None:
    with source:
        while (body := read_body(source)) is not None:
            answers.put(body)
    answers.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # what was not written yet is of no use any more
            process.stdin.close()
