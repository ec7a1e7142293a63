"""Weighted sums of graders."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from rl_data.grading.grade import Grade, Submission
from rl_data.grading.graders.grader import Grader, Grading
from rl_data.grading.rm_type import Term


class Part(NamedTuple):
    """One summand."""

    term: Term
    grader: Grader


class Mixture:
    """The sum of weight times value over its parts. It has no value as soon as one part has none.

    Args:
        parts: the summands, which stay their owner's to start and close.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def check(self, submission: Submission) -> None:
        """Checks with every part."""
        for part in self._parts:
            part.grader.check(submission)

    def grade(self, submission: Submission) -> Grading:
        """The sum, its reason naming every part's value."""
        gradings = [part.grader.grade(submission) for part in self._parts]
        waiting = [grading for grading in gradings if isinstance(grading, Future)]
        return _when_done(waiting, lambda: self._sum(gradings)) if waiting else self._sum(gradings)

    def start(self) -> None:
        """The parts' owner starts them."""

    def close(self) -> None:
        """The parts' owner closes them."""

    def _sum(self, gradings: Sequence[Grading]) -> Grade:
        grades = [grading.result() if isinstance(grading, Future) else grading for grading in gradings]
        total, reasons = 0.0, list[str]()
        for (term, _), grade in zip(self._parts, grades, strict=True):
            if grade.value is None:
                return Grade(value=None, outcome=grade.outcome, reason=f"{term.name}: {grade.reason}")
            total += term.weight * grade.value
            reasons.append(f"{term.name} {grade.value:g} ({grade.reason})")
        return Grade(value=total, reason="; ".join(reasons))


def _when_done(waiting: Sequence[Future[Grade]], combine: Callable[[], Grade]) -> Future[Grade]:
    """A future of `combine()`, called by the thread that ends the last of those waited for."""
    whole: Future[Grade] = Future()
    lock = threading.Lock()
    num_left = len(waiting)

    def one_done(_: Future[Grade]) -> None:
        nonlocal num_left
        with lock:
            num_left -= 1
            is_last = num_left == 0
        if not is_last or not whole.set_running_or_notify_cancel():
            return
        try:
            whole.set_result(combine())
        except Exception as error:  # noqa: BLE001 - raised again where the grade is waited for
            whole.set_exception(error)

    for each in waiting:
        each.add_done_callback(one_done)
    return whole
