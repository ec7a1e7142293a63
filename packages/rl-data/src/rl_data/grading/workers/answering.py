"""A worker's loop: a line of JSON with a task in, a line of JSON with the verdict out."""

import signal
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from rl_data.grading.workers.messages import TAKEN, Call, Comparison, Request, Verdict

type Do = Callable[[Comparison | Call], Verdict]


def answer_all(requests: BinaryIO, output: BinaryIO, do: Do, *, tell: Callable[[bool], None]) -> bool:
    """Does every task until the input ends, which is True, or memory does, which is False.

    A task that outlives its time ends the process, even while no Python runs: the alarm is left to the kernel's default
    action.

    Args:
        requests: what is read.
        output: what is written to.
        do: does a task.
        tell: told whether a task is being done; not between a verdict and its being written.
    """
    for line in requests:
        tell(True)
        output.write(TAKEN)
        request = msgspec.json.decode(line, type=Request)
        signal.setitimer(signal.ITIMER_REAL, request.timeout_s)
        try:
            verdict = do(request.task)
        # The text is a model's: any error that grading it can raise belongs to this text alone.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            verdict = Verdict(value=None, reason=reason, is_last=isinstance(error, MemoryError))
        signal.setitimer(signal.ITIMER_REAL, 0)
        tell(False)
        output.write(msgspec.json.encode(verdict) + b"\n")
        if verdict.is_last:
            return False
    return True
