"""A user's own function as a grader."""

from rl_data.errors import DataError
from rl_data.grading.grade import Submission
from rl_data.grading.graders.grader import Grading
from rl_data.grading.workers.messages import Call
from rl_data.grading.workers.pool import WorkerPool
from rl_data.grading.workers.process import WorkerCrashError


class CustomGrader:
    """Calls a function of (response, label, metadata) in worker processes, where it may hang or die.

    The function returns a number, or a number and a reason, and may be a coroutine function. A worker imports its
    module once.

    Args:
        path: `package.module.function`.
        num_workers: processes that may run it at the same time.
        timeout_s: time that one call may take.

    Raises:
        DataError: if there is no such function, it takes other arguments, or its module cannot be imported.
    """

    def __init__(self, path: str, *, num_workers: int, timeout_s: float) -> None:
        self._workers = WorkerPool(path, num_workers=num_workers, timeout_s=timeout_s)
        try:
            self._workers.start_one()
        except WorkerCrashError as error:
            self._workers.close()
            raise DataError(f"custom_rm_path {path}: {error}") from None

    def check(self, submission: Submission) -> None:
        """Any label will do: what the function needs, it says when it is called."""

    def grade(self, submission: Submission) -> Grading:
        """What the function returns."""
        metadata = dict(submission.metadata)
        return self._workers.submit(Call(response=submission.response, label=submission.label, metadata=metadata))

    def start(self) -> None:
        """Starts the other processes in the background."""
        self._workers.start()

    def close(self) -> None:
        """Ends the processes."""
        self._workers.close()
