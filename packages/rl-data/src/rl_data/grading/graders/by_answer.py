"""What graders share that compare an answer with a reference answer."""

from collections.abc import Callable

from rl_data.errors import DataError
from rl_data.grading.answers import MAX_ANSWER_CHARS, as_number, compare, normalise, stated_plainly
from rl_data.grading.grade import Grade, Submission
from rl_data.grading.graders.grader import Grading
from rl_data.grading.workers.messages import Comparison
from rl_data.grading.workers.pool import WorkerPool

type AnswerFunction = Callable[[str, str], Grade | Comparison]
"""Takes the response and the reference answer. What text does not decide, it gives as a comparison for a worker:
mathematics written by a model is parsed nowhere else."""


class AnswerGrader:
    """A grader from a function of response and reference answer.

    Args:
        name: of the reward type.
        function: what grades.
        workers: processes that compare as mathematics.
    """

    def __init__(self, name: str, function: AnswerFunction, workers: WorkerPool) -> None:
        self._name = name
        self._function = function
        self._workers = workers

    def check(self, submission: Submission) -> None:
        """Checks that there is a label, and one that the grader can take."""
        label = self._label(submission)
        if not label.strip():
            raise DataError(f"rm-type {self._name}: expected a label to compare with, got an empty text")
        self._function("", label)

    def grade(self, submission: Submission) -> Grading:
        """What the function gives, or a worker."""
        found = self._function(submission.response, self._label(submission))
        return found if isinstance(found, Grade) else self._workers.submit(found)

    def start(self) -> None:
        """The workers are their owner's to start."""

    def close(self) -> None:
        """The workers are their owner's to close."""

    def _label(self, submission: Submission) -> str:
        if submission.label is None:
            raise DataError(f"rm-type {self._name}: expected a label to compare with, got none; set --label-key")
        return submission.label


def verdict(answer: str, label: str, is_right: bool) -> Grade:
    """1.0 or 0.0, and which answer was compared with what."""
    return Grade(value=float(is_right), reason=verdict_reason(answer, label, is_right))


def verdict_reason(answer: str, label: str, is_right: bool) -> str:
    """Which answer was compared with what."""
    return f"answer {answer[:80]!r} {'is' if is_right else 'is not'} {label[:80]!r}"


def compare_mathematically(answer: str, label: str) -> Grade | Comparison:
    """1.0 or 0.0 where text and numbers decide it, else a comparison for a worker."""
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(value=0.0, reason=f"the answer has {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    is_right = compare(answer, label)
    if is_right is None and normalise(stated_plainly(answer)) == normalise(label):
        is_right = True
    return comparison(answer, label) if is_right is None else verdict(answer, label, is_right)


def comparison(answer: str, label: str) -> Comparison:
    """What a worker is asked; numbers go without their dollar signs and separators, which are no mathematics."""
    number = normalise(label)
    return Comparison(answer=answer, label=label if as_number(number) is None else number)
