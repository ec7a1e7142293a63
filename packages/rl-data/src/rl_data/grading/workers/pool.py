"""Several worker processes of one role, and the queue of tasks before them."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rl_data.grading.grade import Grade, crash, timeout
from rl_data.grading.workers.idle import IdleWorkers
from rl_data.grading.workers.messages import Call, Comparison
from rl_data.grading.workers.process import WorkerCrashError, WorkerProcess

_MAX_KNOWN = 16_384


class WorkerPool:
    """Does tasks in killable processes, which start when they are needed or at `start()`. For any thread.

    A process that a task broke is mended, or replaced, in the background, while those that are ready do what comes.

    Equal comparisons are made once: the samples of a group often give the same answer. What ended without a grade is
    tried anew.

    Args:
        role: MATH, or the path of the user's function.
        num_workers: processes.
        timeout_s: time that one task may take; it is ended then and the grade says so.
    """

    def __init__(self, role: str, *, num_workers: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._workers = [WorkerProcess(role) for _ in range(num_workers)]
        self._idle = IdleWorkers(self._workers)
        self._lock = threading.Lock()
        self._comparisons: OrderedDict[Comparison, Future[Grade]] = OrderedDict()
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._menders = ThreadPoolExecutor(num_workers, thread_name_prefix="grader-mender")
        self._finalizer = weakref.finalize(self, _close, self._threads, self._menders, self._workers)

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
        if isinstance(task, Call):
            return self._threads.submit(self._do, task)
        with self._lock:
            shared = self._comparisons.get(task)
            if shared is None or _has_failed(shared):
                shared = self._comparisons[task] = self._threads.submit(self._do, task)
            self._comparisons.move_to_end(task)
            while len(self._comparisons) > _MAX_KNOWN:
                self._comparisons.popitem(last=False)
        return _follow(shared)

    def close(self) -> None:
        """Ends every process and thread; what is being done ends as a crash."""
        self._finalizer()

    def _start_idle(self) -> None:
        """Starts a worker that no other thread uses; a failure is found again, and told, by the first task."""
        self._start(self._idle.take(prefer_ready=False))

    def _start(self, worker: WorkerProcess) -> None:
        try:
            worker.start()
        finally:
            self._idle.put(worker)

    def _do(self, task: Comparison | Call) -> Grade:
        """Asks a worker; runs on one of the pool's threads, of which there are as many as workers."""
        worker = self._idle.take(prefer_ready=True)
        try:
            verdict = worker.ask(task, self._timeout_s)
        except TimeoutError:
            return timeout(f"{_name(task)} was not graded within {self._timeout_s:g} s")
        except WorkerCrashError as error:
            return crash(str(error))
        finally:
            self._give_back(worker)
        return crash(verdict.reason) if verdict.value is None else Grade(value=verdict.value, reason=verdict.reason)

    def _give_back(self, worker: WorkerProcess) -> None:
        if worker.is_broken:
            try:
                self._menders.submit(self._start, worker)
            except RuntimeError:  # the interpreter ends; should there be a next task, then it mends the worker
                self._idle.put(worker)
        else:
            self._idle.put(worker)


def _has_failed(future: Future[Grade]) -> bool:
    return future.done() and future.result().value is None


def _follow(shared: Future[Grade]) -> Future[Grade]:
    """A future of the same grade, which one of those who wait may cancel without harm to the others."""
    own: Future[Grade] = Future()

    def pass_on(done: Future[Grade]) -> None:
        if own.set_running_or_notify_cancel():
            own.set_result(done.result())

    shared.add_done_callback(pass_on)
    return own


def _name(task: Comparison | Call) -> str:
    return f"answer {task.answer[:80]!r}" if isinstance(task, Comparison) else f"response {task.response[-80:]!r}"


def _close(threads: ThreadPoolExecutor, menders: ThreadPoolExecutor, workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.interrupt()
    threads.shutdown(wait=True)  # tasks that still wait meet an interrupted worker, and end as crashes too
    menders.shutdown(wait=True)
    for worker in workers:
        worker.close()
