"""Worker processes that nobody asks at the moment."""

import threading
from collections.abc import Iterable

from rl_data.grading.workers.process import WorkerProcess


class IdleWorkers:
    """Gives each worker to one taker at a time. For any thread."""

    def __init__(self, workers: Iterable[WorkerProcess]) -> None:
        self._workers = list(workers)
        self._is_any = threading.Condition()

    def take(self, *, prefer_ready: bool) -> WorkerProcess:
        """One that is ready, or else one that is not, or the other way round; waits while there is none at all."""
        with self._is_any:
            self._is_any.wait_for(lambda: self._workers)
            preferred = (worker for worker in self._workers if worker.is_ready == prefer_ready)
            worker = next(preferred, self._workers[0])
            self._workers.remove(worker)
            return worker

    def put(self, worker: WorkerProcess) -> None:
        """Gives back what was taken, and wakes one that waits."""
        with self._is_any:
            self._workers.append(worker)
            self._is_any.notify()
