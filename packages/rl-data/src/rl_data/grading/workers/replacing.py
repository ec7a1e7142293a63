"""A process that compares, and another in its place, within milliseconds, whenever it ends."""

import gc
import mmap
import os
import signal
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from rl_data.grading.workers.answering import Do, answer_all
from rl_data.grading.workers.confinement import confine, end_with_parent
from rl_data.grading.workers.messages import Verdict

_INPUT_ENDED, _EXHAUSTED, _ORPHANED, _UNCONFINED = 0, 3, 4, 5


def answer_replaceably(requests: BinaryIO, output: BinaryIO, do: Do, *, is_confined: bool) -> None:
    """Answers until the input ends, in one child after the other, each confined where the system can do that.

    A child is a copy of this process, with all that was imported, and takes the next task as soon as it is made. For a
    task that ended its child, by the alarm or otherwise, the verdict is given here.

    Args:
        is_confined: whether the owner was told that the children are, so that one that is not must not answer.

    Raises:
        RuntimeError: if one is not although it should be.
    """
    is_busy = mmap.mmap(-1, 1)  # shared with the children: a verdict is owed only for a task that one was doing
    gc.collect()
    gc.freeze()  # what is there already is never looked at again, so its memory stays shared
    owner = os.getpid()
    while True:
        is_busy[0] = 0
        child = os.fork()
        if child == 0:
            _be_a_child(owner, requests, output, do, is_busy, must_confine=is_confined)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == _INPUT_ENDED:
            return
        if status == _UNCONFINED:
            raise RuntimeError("the system has confined grading processes, and does so no more")
        if is_busy[0]:
            output.write(msgspec.json.encode(_verdict_on(status)) + b"\n")


def can_confine() -> bool:
    """Whether this system can take from a process what comparing does not need."""
    child = os.fork()
    if child == 0:
        os._exit(0 if confine() else 1)
    return os.waitpid(child, 0)[1] == 0


def _be_a_child(
    owner: int, requests: BinaryIO, output: BinaryIO, do: Do, is_busy: mmap.mmap, *, must_confine: bool
) -> None:
    """Never returns: what follows in the caller is the owner's alone."""
    status = _ORPHANED
    try:
        end_with_parent(signal.SIGKILL)
        if os.getppid() == owner:
            if not confine() and must_confine:
                status = _UNCONFINED
            else:
                status = _INPUT_ENDED if answer_all(requests, output, do, tell=_told_by(is_busy)) else _EXHAUSTED
    finally:
        os._exit(status)


def _told_by(is_busy: mmap.mmap) -> Callable[[bool], None]:
    def tell(value: bool) -> None:
        is_busy[0] = value

    return tell


def _verdict_on(status: int) -> Verdict:
    """What is said of a task whose child has ended."""
    if status == -signal.SIGALRM:
        return Verdict(value=None, reason="it took longer than its time", is_timeout=True)
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return Verdict(value=None, reason=f"a grading process died: {how}")
