"""A worker process: `python -m rl_data.grading.workers math`, or a function's path in the place of `math`.

It reads a JSON line for each task from its standard input, says that it has it, and writes a JSON line with the
verdict. It ends when its input does.
"""

import os
import resource
import signal
import sys
from typing import BinaryIO

from rl_data.grading.workers.answering import answer_all
from rl_data.grading.workers.calling import call, load_function
from rl_data.grading.workers.comparing import compare, warm_up
from rl_data.grading.workers.messages import MATH, READY, READY_UNCONFINED, Call, Comparison, Verdict
from rl_data.grading.workers.replacing import answer_replaceably, can_confine
from rl_data.grading.workers.text_as_code import refuse_code_of_text

MAX_MEMORY_BYTES = 4 << 30
"""Address space of one that compares; an expression that needs more fails alone instead of taking the machine's."""


def main(role: str) -> None:
    """Answers requests until the input ends, after importing everything that it needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    requests, output = _take_standard_streams()
    if role == MATH:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        warm_up()
        refuse_code_of_text()
        is_confined = can_confine()
        output.write(READY if is_confined else READY_UNCONFINED)
        answer_replaceably(requests, output, _compare, is_confined=is_confined)
    else:
        function = load_function(role)
        output.write(READY)

        def do(task: Comparison | Call) -> Verdict:
            assert isinstance(task, Call)
            return call(function, task)

        answer_all(requests, output, do, tell=lambda _: None)


def _compare(task: Comparison | Call) -> Verdict:
    assert isinstance(task, Comparison)
    return compare(task)


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Requests and verdicts; what a library prints goes to the standard error, and what it reads is empty."""
    requests = os.fdopen(os.dup(0), "rb")
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, output


if __name__ == "__main__":
    main(sys.argv[1])
