"""One worker process, as its parent sees it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import BinaryIO, cast

from rl_data.ahead.frames import dumps, loads, read_body, write_frame
from rl_data.errors import RLDataError

_TRACEBACK_S = 1.0
"""How long a process that hangs may take to say where."""
_KILLED_WITHIN_S = 5.0
"""One that waits for a disk does not end before that answers; nobody waits for it longer than this."""


class WorkerProcess:
    """A child, a thread that writes to it and one that reads what it answers: neither side ever waits for the other.

    Args:
        make: the frame that it is sent first; see `rl_data.ahead.__main__`.
        name: for messages.
    """

    def __init__(self, make: bytes, *, name: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rl_data.ahead"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._name = f"{name} (process {self._process.pid})"
        self._failure: str | None = None
        self._questions: SimpleQueue[bytes | None] = SimpleQueue()
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self.end = weakref.finalize(self, _end, self._process, self._questions)
        for talk, pipe, queue in (
            (_write_questions, self._process.stdin, self._questions),
            (_read_answers, self._process.stdout, self._answers),
        ):
            threading.Thread(target=talk, args=(cast(BinaryIO, pipe), queue), daemon=True).start()
        self._questions.put(make)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it was found dead or too late, and was ended: it answers nothing any more."""
        return self._failure is not None

    def send(self, value: object) -> None:
        """Hands something over; does not wait. That the process has died is seen where its answer is waited for."""
        self._questions.put(dumps(value))

    def receive(self, deadline_s: float, doing: Callable[[], str]) -> object:
        """The next answer; waits for it.

        Args:
            deadline_s: how long.
            doing: what is being waited for, for messages.

        Raises:
            RLDataError: if the process has died or the deadline has passed. The process is ended then, and who asks
                again is told the same.
        """
        if self._failure is None:
            try:
                body = self._answers.get(timeout=deadline_s)
            except Empty:
                late = f"no result within {deadline_s:g} s (--data-timeout-s) from {doing()}"
                failure = f"{self._name}: {late}; {self._place()}"
            else:
                if body is not None:
                    return loads(body)
                lines = self._written(0).splitlines()
                last_words = f"it wrote last: {lines[-1]}" if lines else "it left no message"
                failure = f"{self._name} {self._how_it_ended()}; {last_words} (--num-data-workers 0 goes without)"
            self._failure = failure
            self.end()  # an answer that came late would be taken for that to a later question
        raise RLDataError(self._failure)

    def _how_it_ended(self) -> str:
        """Exit status or signal, once it has no more answers."""
        try:
            status = self._process.wait(_KILLED_WITHIN_S)  # a process closes its output a moment before it ends
        except subprocess.TimeoutExpired:
            return "runs, but its answers cannot be read"
        if status >= 0:
            return f"died with exit status {status}"
        reason = ", as the system kills where memory runs out" if -status == signal.SIGKILL else ""
        return f"died of signal {-status} ({signal.strsignal(-status)}{reason})"

    def _place(self) -> str:
        """Where in its code the process is."""
        before = os.fstat(self._errors.fileno()).st_size
        self._process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + _TRACEBACK_S
        while time.monotonic() < until:
            frames = [line.strip() for line in self._written(before).splitlines() if line.startswith("  File ")]
            if frames:
                return f"it is in {frames[0]}"
            time.sleep(_TRACEBACK_S / 20)
        return "it does not say where it is, as one that is stopped or waits for a disk"

    def _written(self, start: int) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size - start, start).decode(errors="replace").strip("\n")


def _write_questions(pipe: BinaryIO, questions: SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(OSError), pipe:  # who reads the answers sees that it has died
        while (question := questions.get()) is not None:
            write_frame(pipe, question)


def _read_answers(pipe: BinaryIO, answers: SimpleQueue[bytes | None]) -> None:
    try:
        with pipe:
            while (body := read_body(pipe)) is not None:
                answers.put(body)
    finally:  # also where an answer does not fit into memory: nobody is to wait for what does not come
        answers.put(None)


def _end(process: subprocess.Popen[bytes], questions: SimpleQueue[bytes | None]) -> None:
    questions.put(None)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILLED_WITHIN_S)
