"""What a grader promises."""

from concurrent.futures import Future
from typing import Protocol

from rl_data.grading.grade import Grade, Submission

type Grading = Grade | Future[Grade]
"""A grade that could be given at once, or one that another process or machine is working on."""


class Grader(Protocol):
    """Gives responses their rewards. May be used from any thread."""

    def check(self, submission: Submission) -> None:
        """Checks that a response with this label and these metadata could be graded; its text and length are not read.

        Raises:
            DataError: saying what is missing or wrong.
        """
        ...

    def grade(self, submission: Submission) -> Grading:
        """The grade. What goes wrong with one response is a grade without a value, never an exception.

        Raises:
            DataError: as `check` does.
        """
        ...

    def start(self) -> None:
        """Gets ready in the background, where that takes time."""
        ...

    def close(self) -> None:
        """Ends every process, thread and connection; what is being graded ends as a crash."""
        ...
