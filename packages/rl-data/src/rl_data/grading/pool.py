"""Grading many responses at once, in killable processes where that is needed."""

import asyncio
import importlib.util
import queue
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from rl_data.errors import DataError
from rl_data.grading.grade import Grade, GradeOutcome
from rl_data.grading.graders import NEEDS_WORKERS, Comparison, Grader, grader_for
from rl_data.grading.process import WorkerCrashError, WorkerProcess
from rl_data.json import JsonValue


class GraderPool:
    """Grades responses by one reward type, or by the one that a row's metadata names under "rm_type".

    Answers that text decides are graded where they are asked. Those that need mathematics go to worker processes, which
    start at the first of them, or at `start()`. May be used from any thread and any event loop.

    Args:
        rm_type: name of a grader, see `rl_data.grading.GRADERS`.
        num_workers: processes that may compare mathematics at the same time.
        timeout_s: time that one comparison may take; its process is killed then and the grade says so.

    Raises:
        DataError: if there is no such grader, or it needs a library that is not installed.
    """

    def __init__(self, rm_type: str, num_workers: int = 2, timeout_s: float = 10.0) -> None:
        if num_workers < 1 or timeout_s <= 0:
            raise DataError(f"grader pool: expected workers and a timeout above 0, got {num_workers} and {timeout_s}")
        self._rm_type = rm_type
        self._grader = _checked_grader(rm_type)
        self._timeout_s = timeout_s
        self._workers = [WorkerProcess() for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._finalizer = weakref.finalize(self, _close, self._threads, self._workers)

    def check_label(self, label: str | None, metadata: Mapping[str, JsonValue] | None = None) -> None:
        """Checks that a response could be graded against this label. Compares no mathematics and starts no process.

        Raises:
            DataError: if there is no label, an empty one, or one that the grader cannot take, or the metadata name an
                unknown grader.
        """
        self._grade_by_text("", label, metadata)
        if label is not None and not label.strip():
            raise DataError(f"rm-type {self._rm_type}: expected a label to compare with, got an empty text")

    def start(self) -> None:
        """Starts the worker processes in the background, if this reward type can need them."""
        if self._rm_type in NEEDS_WORKERS:
            for _ in self._workers:
                self._threads.submit(self._start_idle)

    async def grade(self, response: str, label: str | None, metadata: Mapping[str, JsonValue] | None = None) -> Grade:
        """The grade of a response.

        Raises:
            DataError: if there is no label, or the metadata name an unknown grader.
        """
        found = self._grade_by_text(response, label, metadata)
        if isinstance(found, Grade):
            return found
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._compare, found)

    async def grade_many(self, items: Sequence[tuple[str, str | None, Mapping[str, JsonValue] | None]]) -> list[Grade]:
        """Grades of (response, label, metadata), in their order."""
        return await asyncio.gather(*(self.grade(*item) for item in items))

    def grade_now(self, response: str, label: str | None, metadata: Mapping[str, JsonValue] | None = None) -> Grade:
        """The same as `grade`, for callers without an event loop; waits."""
        found = self._grade_by_text(response, label, metadata)
        return found if isinstance(found, Grade) else self._threads.submit(self._compare, found).result()

    def close(self) -> None:
        """Ends every process and thread; what is being compared ends as a crash."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _grade_by_text(
        self, response: str, label: str | None, metadata: Mapping[str, JsonValue] | None
    ) -> Grade | Comparison:
        if label is None:
            raise DataError(f"rm-type {self._rm_type}: expected a label to compare with, got none; set --label-key")
        rm_type = (metadata or {}).get("rm_type", self._rm_type)
        if not isinstance(rm_type, str):
            raise DataError(f"metadata: expected rm_type as text, got {rm_type!r}")
        grader = self._grader if rm_type == self._rm_type else _checked_grader(rm_type)
        return grader(response, label)

    def _start_idle(self) -> None:
        """Starts a worker that no other thread uses; a failure is found again, and told, by the first comparison."""
        worker = self._idle.get()
        try:
            worker.start()
        finally:
            self._idle.put(worker)

    def _compare(self, comparison: Comparison) -> Grade:
        """Asks a worker; runs on one of the pool's threads, of which there are as many as workers."""
        worker = self._idle.get()
        try:
            verdict = worker.ask(comparison.answer, comparison.label, self._timeout_s)
        except TimeoutError:
            reason = f"answer {comparison.answer[:80]!r} was not compared within {self._timeout_s:g} s"
            return Grade(value=None, outcome=GradeOutcome.TIMEOUT, reason=reason)
        except WorkerCrashError as error:
            return Grade(value=None, outcome=GradeOutcome.CRASH, reason=str(error))
        finally:
            self._idle.put(worker)
        if verdict.is_right is None:
            return Grade(value=None, outcome=GradeOutcome.CRASH, reason=verdict.reason)
        relation = "equals" if verdict.is_right else "does not equal"
        reason = verdict.reason or f"answer {comparison.answer[:80]!r} {relation} {comparison.label[:80]!r}"
        return Grade(value=float(verdict.is_right), reason=reason)


def _checked_grader(rm_type: str) -> Grader:
    grader = grader_for(rm_type)
    if rm_type in NEEDS_WORKERS and importlib.util.find_spec("math_verify") is None:
        raise DataError(f"rm-type {rm_type} needs math-verify: pip install 'rl-data[math]'")
    return grader


def _close(threads: ThreadPoolExecutor, workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.interrupt()
    threads.shutdown(wait=True)  # comparisons that still wait meet an interrupted worker, and end as crashes too
    for worker in workers:
        worker.close()
