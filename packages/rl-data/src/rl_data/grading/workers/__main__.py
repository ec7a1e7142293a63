"""A worker process: `python -m rl_data.grading.workers math`, or a function's path in the place of `math`.

It reads a JSON line for each task from its standard input and writes a JSON line with the verdict. It ends when its
input does. A task that outlives its time ends the process, even while no Python runs: the alarm is left to the
kernel's default action.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from rl_data.grading.workers.calling import call, load_function
from rl_data.grading.workers.comparing import compare
from rl_data.grading.workers.messages import MATH, READY, Call, Comparison, Request, Verdict

MAX_MEMORY_BYTES = 4 << 30
"""Address space of one that compares; an expression that needs more fails alone instead of taking the machine's."""


def main(role: str) -> None:
    """Answers requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    requests, output = _take_standard_streams()
    do = _ready_for(role)
    output.write(READY)
    for line in requests:
        request = msgspec.json.decode(line, type=Request)
        signal.setitimer(signal.ITIMER_REAL, request.timeout_s)
        try:
            verdict = do(request.task)
        # The text is a model's: any error that grading it can raise belongs to this text alone.
        except Exception as error:  # noqa: BLE001
            verdict = Verdict(value=None, reason=f"{type(error).__name__}: {str(error)[:200]}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        output.write(msgspec.json.encode(verdict) + b"\n")


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Requests and verdicts; what a library prints goes to the standard error, and what it reads is empty."""
    requests = os.fdopen(os.dup(0), "rb")
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, output


def _ready_for(role: str) -> Callable[[Comparison | Call], Verdict]:
    """What does a task, after importing everything that it needs."""
    if role == MATH:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        compare(Comparison(answer="1/2", label="0.5"))
    function = None if role == MATH else load_function(role)

    def do(task: Comparison | Call) -> Verdict:
        if isinstance(task, Comparison):
            return compare(task)
        assert function is not None
        return call(function, task)

    return do


if __name__ == "__main__":
    main(sys.argv[1])
