"""What is graded, and what grading it gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rl_data.json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A response that is handed to a grader, and what is known of it."""

    response: str
    label: str | None = None
    """The reference answer, for graders that compare with one."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The row's own fields."""
    num_tokens: int | None = None
    """Tokens of the response, for graders that look at its length."""


class GradeOutcome(StrEnum):
    """Whether there is a grade."""

    GRADED = "graded"  # there is a value, be it that of a wrong answer
    TIMEOUT = "timeout"  # the grader did not end in time and was stopped
    CRASH = "crash"  # the grader failed or its process died


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A grader's verdict. A timeout or a crash has no value: it says nothing about the answer and is never a 0.

    Raises:
        ValueError: if a value comes without a grade, is missing from one, or is not finite.
    """

    value: float | None
    """The reward; None unless the outcome is GRADED."""
    outcome: GradeOutcome = GradeOutcome.GRADED
    reason: str = ""
    """Why: which answer was found and what it was compared with, or what failed."""

    def __post_init__(self) -> None:
        if (self.value is not None) != (self.outcome is GradeOutcome.GRADED):
            raise ValueError(f"grade: value {self.value} does not go with outcome {self.outcome}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"grade: expected a finite value, got {self.value}")


def crash(reason: str) -> Grade:
    """The grade of a grader that failed."""
    return Grade(value=None, outcome=GradeOutcome.CRASH, reason=reason)


def timeout(reason: str) -> Grade:
    """The grade of a grader that did not end in time."""
    return Grade(value=None, outcome=GradeOutcome.TIMEOUT, reason=reason)
