"""One worker process, as its owner sees it: started when needed, asked with a deadline, killed when it passes."""

import contextlib
import functools
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

import msgspec

from rl_data.grading.workers.messages import MATH, READY, READY_UNCONFINED, TAKEN, Call, Comparison, Request, Verdict

logger = logging.getLogger(__name__)

GRACE_S = 0.25
"""What a process that compares may take beyond a task's time to say so; then its answer is not waited for any more."""

LATE_S = 2.0
"""How much later it may still say so: a busy machine may give it no processor for a second. Then it is killed."""

_ORPHANED_S = 1.0
"""How long beyond a task's time the user's function runs where the process that would kill it is gone."""

_END_S = 1.0
"""How long a process whose output has ended may take until its exit status is there."""

_START_TIMEOUT_S = 120.0
"""Importing sympy takes half a second on an idle machine, and much longer on one that starts engines as well."""


class WorkerCrashError(Exception):
    """The process died or answered nonsense; the message says how, and ends with what it wrote last."""


class _DiedIdleError(WorkerCrashError):
    """The process died before it took the task, which has no part in that."""


class WorkerProcess:
    """A child that grades. One thread at a time may ask; any thread may interrupt.

    A plain child that runs one module is used instead of multiprocessing, whose children import the caller's main
    program again: a trainer's takes seconds, and a script without a guard would start itself over and over.

    Args:
        role: MATH, or the path of the user's function.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._stops_itself = role == MATH  # when a task's time is up
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._is_closed = False
        self._is_late = False  # owes the verdict on a task whose time is up
        self._is_broken = False
        self._is_ready = False
        self._unread = b""
        self._num_start_bytes = 0  # of what it wrote to its standard error before it was ready

    @property
    def is_ready(self) -> bool:
        """Whether it takes a task at once, as far as is known."""
        return self._is_ready

    @property
    def is_broken(self) -> bool:
        """Whether a task left it without a process that is ready; `start` mends that."""
        return self._is_broken

    def start(self) -> None:
        """Waits until the process can answer, after starting it if none runs or it does not say what it owes.

        Raises:
            WorkerCrashError: if it does not start, or the worker is closed.
        """
        self._is_broken = self._is_ready = False
        if self._is_late:
            self._await_late_verdict()
        self._start_process()
        self._is_ready = True

    def _start_process(self) -> None:
        with self._lock:
            if self._is_closed:
                raise WorkerCrashError("the pool is closed")
            if self._process is not None and self._process.poll() is None:
                return
            self._errors.seek(0)
            self._errors.truncate()
            self._unread, self._num_start_bytes = b"", 0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rl_data.grading.workers", self._role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment(),
                start_new_session=True,  # so that all that it starts can be ended with it
            )
        try:
            line = self._read_line(_START_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            raise WorkerCrashError(f"a grading process did not start within {_START_TIMEOUT_S:.0f} s") from None
        if line == READY_UNCONFINED:
            _warn_of_unconfined()
        elif line != READY:
            words = self._last_words() or self._how_it_ended()
            self.kill()
            raise WorkerCrashError(f"a grading process failed to start: {words}")
        self._num_start_bytes = os.fstat(self._errors.fileno()).st_size

    def ask(self, task: Comparison | Call, timeout_s: float) -> Verdict:
        """The verdict. The time counts from when a process that is ready takes the task.

        One that compares stops by itself when the time is up and is ready for the next task at once; should it not
        have done so GRACE_S later, it is broken. One that runs the user's function is killed when the time is up.

        Raises:
            TimeoutError: if it took longer.
            WorkerCrashError: if the process died, or the task is nothing that JSON could hold.
        """
        limit_s = timeout_s + (GRACE_S if self._stops_itself else 0.0)
        request = _encoded(Request(task=task, timeout_s=timeout_s + (0.0 if self._stops_itself else _ORPHANED_S)))
        try:
            return self._verdict_on(request, limit_s)
        except _DiedIdleError as error:
            logger.info("%s, before it took a task; another one takes it", error)
            return self._verdict_on(request, limit_s)

    def _verdict_on(self, request: bytes, limit_s: float) -> Verdict:
        """What `ask` gives, and raises; _DiedIdleError where the task may be asked for again."""
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        deadline = time.monotonic() + limit_s
        is_taken = False
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = self._read_line(limit_s)
            is_taken = line != b""
            if line == TAKEN:
                line = self._read_line(deadline - time.monotonic())
            verdict = msgspec.json.decode(line, type=Verdict)
        except TimeoutError:
            self._is_broken, self._is_ready, self._is_late = True, False, self._stops_itself
            if not self._stops_itself:
                self.kill()
            raise
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            self._is_broken, self._is_ready = True, False
            how = self._how_it_ended()
            self.kill()
            died = WorkerCrashError if is_taken else _DiedIdleError
            raise died(f"a grading process died: {how}") from error
        if verdict.is_last and not self._stops_itself:
            self._is_broken, self._is_ready = True, False
            self.kill()
        if verdict.is_timeout:
            raise TimeoutError
        return verdict

    def kill(self) -> None:
        """Ends the process, if one runs; the next question starts another. Not while another thread asks."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was not written yet is of no use any more
                    pipe.close()

    def interrupt(self) -> None:
        """Ends the process for good, from any thread; one that asks at the moment gets a WorkerCrashError.

        The pipes stay open until `close`: a descriptor closed under a reading thread may be another file's by then.
        """
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                _kill(self._process)

    def close(self) -> None:
        """Frees everything, after `interrupt` and when no thread asks any more."""
        self.kill()
        self._errors.close()

    def _await_late_verdict(self) -> None:
        """Reads what the process owes; kills it where that does not come."""
        self._is_late = False
        try:
            line = self._read_line(LATE_S)
            is_there = (self._read_line(LATE_S) if line == TAKEN else line) != b""
        except TimeoutError:
            is_there = False
        if not is_there:
            self.kill()

    def _read_line(self, timeout_s: float) -> bytes:
        """A line of the child's output; b"" where it has died.

        Raises:
            TimeoutError: if none came in time.
        """
        process = self._process
        if process is None or process.stdout is None:
            return b""
        descriptor = process.stdout.fileno()
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return b""
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line + b"\n"

    def _environment(self) -> dict[str, str]:
        """The caller's, with one thread for libraries that compare; a function is looked for where the caller would."""
        if self._role != MATH:
            return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path)}
        return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def _how_it_ended(self) -> str:
        """Exit status or signal of a process whose output has ended, and what it wrote last."""
        status: int | None = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(_END_S)
        how = "it answered nonsense" if status is None else f"exit status {status}"
        if status is not None and status < 0:
            how = signal.Signals(-status).name
        words = self._last_words()
        return f"{how}; it wrote last: {words}" if words else how

    def _last_words(self) -> str:
        """What it wrote last since it was ready, or else since it was started."""
        self._errors.seek(self._num_start_bytes)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _encoded(request: Request) -> bytes:
    try:
        return msgspec.json.encode(request) + b"\n"
    except (TypeError, ValueError) as error:  # half a surrogate pair in a text, say, or an object in the metadata
        raise WorkerCrashError(f"not sent to a grading process: {error}") from error


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and all that it started."""
    if process.poll() is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@functools.cache
def _warn_of_unconfined() -> None:
    """Says it once."""
    logger.warning(
        "grading processes are not confined: that takes Linux on x86-64 or 64-bit ARM, and a system that allows seccomp"
    )
