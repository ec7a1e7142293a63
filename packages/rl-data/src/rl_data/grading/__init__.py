"""Rewards for responses that have a reference answer."""

from rl_data.grading.grade import Grade, GradeOutcome
from rl_data.grading.graders import GRADERS, grader_for
from rl_data.grading.pool import GraderPool

__all__ = ["GRADERS", "Grade", "GradeOutcome", "GraderPool", "grader_for"]
