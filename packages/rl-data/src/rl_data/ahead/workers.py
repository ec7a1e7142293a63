"""Worker processes that do work ahead of its use, as its user sees them."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from rl_data.ahead.frames import dumps
from rl_data.ahead.process import WorkerProcess
from rl_data.errors import DataError, RLDataError

logger = logging.getLogger(__name__)

_MAX_PART = 64
"""Arguments in one message at most: a worker's share comes in rows of as many."""


class _Call[Argument](NamedTuple):
    worker: WorkerProcess
    argument: Argument


class Ahead[Argument, Result]:
    """Calls a function in worker processes and gives the results in the order in which the calls were submitted.

    The workers are plain children, as those of `rl_data.grading` are, and do not import the caller's main program. They
    end with this object, or with this process however it ends.

    Args:
        make: makes the function, in each worker; it is pickled, so it must be importable there.
        num_workers: how many processes.
        deadline_s: how long a result is waited for.
        describe: how a message calls what a worker was doing.

    Raises:
        DataError: if `make` cannot be pickled.
    """

    def __init__(
        self,
        make: Callable[[], Callable[[Argument], Result]],
        num_workers: int,
        *,
        deadline_s: float,
        describe: Callable[[Argument], str],
    ) -> None:
        assert num_workers > 0
        frame = _frame_of(make)
        self._workers = [
            WorkerProcess(frame, name=f"data worker {number} of {num_workers}") for number in range(1, num_workers + 1)
        ]
        self._deadline_s = deadline_s
        self._describe = describe
        self._calls: deque[_Call[Argument]] = deque()
        self._next_worker = 0

    @property
    def num_waiting(self) -> int:
        """Results that were submitted and not taken yet."""
        return len(self._calls)

    def submit(self, arguments: Sequence[Argument]) -> None:
        """Gives calls to the workers, in parts, and does not wait."""
        size = max(1, min(_MAX_PART, -(-len(arguments) // (2 * len(self._workers)))))
        for start in range(0, len(arguments), size):
            worker = self._workers[self._next_worker]
            self._next_worker = (self._next_worker + 1) % len(self._workers)
            part = arguments[start : start + size]
            worker.send(list(part))
            self._calls.extend(_Call(worker, argument) for argument in part)

    def take(self) -> Result:
        """The next result; waits for it. A call whose result could not be had stays the next.

        Raises:
            RLDataError: naming the worker, if it has died, with what it wrote last, or if the deadline has passed, with
                what it was doing.
        """
        call = self._calls[0]
        result = cast(Result, call.worker.receive(self._deadline_s, lambda: self._describe(call.argument)))
        self._calls.popleft()
        return result

    def forget(self) -> bool:
        """Waits for all results that were not taken, and throws them away.

        Returns:
            Whether the workers can go on; False as soon as one has failed.
        """
        try:
            while self._calls:
                if any(worker.has_failed for worker in self._workers):
                    return False
                self.take()
        except RLDataError as error:
            logger.warning("%s", error)
            return False
        return True

    def close(self) -> None:
        """Ends the workers. What was not taken is lost."""
        for worker in self._workers:
            worker.end()


def _frame_of(make: object) -> bytes:
    try:
        return dumps(make)
    except Exception as error:  # tokenizers raises a bare Exception for parts written in Python
        raise DataError(
            f"data workers cannot be given what they need, such as the tokenizer: {type(error).__name__}: {error}; "
            "--num-data-workers 0 (num_data_workers) goes without them"
        ) from error
