"""The grader of boxed answers."""

from rl_data.grading.answers import compare, last_boxed
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import verdict


def grade_boxed(response: str, label: str) -> Grade:
    """1.0 if the last box holds the reference answer as text or number, else 0.0."""
    found = last_boxed(response)
    if found is None:
        return Grade(value=0.0, reason="no \\boxed{} found")
    return verdict(found[1], label, bool(compare(found[1], label)))
