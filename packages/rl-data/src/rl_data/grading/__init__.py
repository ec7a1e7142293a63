"""Rewards for responses."""

from rl_data.grading.config import GraderConfig
from rl_data.grading.grade import Grade, GradeOutcome
from rl_data.grading.pool import GraderPool
from rl_data.grading.rm_type import ANSWER_GRADERS, RM_TYPES, can_be_negative, needs_label

__all__ = [
    "ANSWER_GRADERS",
    "RM_TYPES",
    "Grade",
    "GradeOutcome",
    "GraderConfig",
    "GraderPool",
    "can_be_negative",
    "needs_label",
]
