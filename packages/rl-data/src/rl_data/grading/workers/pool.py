"""Several worker processes of one role, and the queue of tasks before them."""

import queue
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rl_data.grading.grade import Grade, crash, timeout
from rl_data.grading.workers.messages import Call, Comparison
from rl_data.grading.workers.process import WorkerCrashError, WorkerProcess


class WorkerPool:
    """Does tasks in killable processes, which start at the first task or at `start()`. For any thread.

    Args:
        role: MATH, or the path of the user's function.
        num_workers: processes.
        timeout_s: time that one task may take; its process is killed then and the grade says so.
    """

    def __init__(self, role: str, *, num_workers: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._workers = [WorkerProcess(role) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._finalizer = weakref.finalize(self, _close, self._threads, self._workers)

    def start(self) -> None:
        """Starts the processes in the background."""
        for _ in self._workers:
            self._threads.submit(self._start_idle)

    def start_one(self) -> None:
        """Starts a process and waits until it is ready.

        Raises:
            WorkerCrashError: if it does not start.
        """
        self._threads.submit(self._start_idle).result()

    def submit(self, task: Comparison | Call) -> Future[Grade]:
        """The grade, once a process has done the task. The future never holds an exception."""
        return self._threads.submit(self._do, task)

    def close(self) -> None:
        """Ends every process and thread; what is being done ends as a crash."""
        self._finalizer()

    def _start_idle(self) -> None:
        """Starts a worker that no other thread uses; a failure is found again, and told, by the first task."""
        worker = self._idle.get()
        try:
            worker.start()
        finally:
            self._idle.put(worker)

    def _do(self, task: Comparison | Call) -> Grade:
        """Asks a worker; runs on one of the pool's threads, of which there are as many as workers."""
        worker = self._idle.get()
        try:
            verdict = worker.ask(task, self._timeout_s)
        except TimeoutError:
            return timeout(f"{_name(task)} was not graded within {self._timeout_s:g} s")
        except WorkerCrashError as error:
            return crash(str(error))
        finally:
            self._idle.put(worker)
        return crash(verdict.reason) if verdict.value is None else Grade(value=verdict.value, reason=verdict.reason)


def _name(task: Comparison | Call) -> str:
    return f"answer {task.answer[:80]!r}" if isinstance(task, Comparison) else f"response {task.response[-80:]!r}"


def _close(threads: ThreadPoolExecutor, workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.interrupt()
    threads.shutdown(wait=True)  # tasks that still wait meet an interrupted worker, and end as crashes too
    for worker in workers:
        worker.close()
