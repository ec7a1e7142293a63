"""The grader of DAPO."""

from rl_data.grading.answers import last_answer_line, last_boxed, normalise
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import verdict_reason

_READ_CHARS = 300


def grade_dapo(response: str, label: str) -> Grade:
    """1.0 if right and -1.0 if wrong, as in the DAPO paper (Yu et al. 2025, section 2.4).

    Only the last 300 characters are read. The last "Answer:" line in them counts, or else the last box; both answers
    are compared as text after normalisation.
    """
    tail = response[-_READ_CHARS:]
    found = last_answer_line(tail) or last_boxed(tail)
    if found is None:
        return Grade(value=-1.0, reason=f"no answer in the last {_READ_CHARS} characters")
    boxed = last_boxed(found[1])
    answer = boxed[1] if boxed else found[1]
    is_right = normalise(answer) == normalise(label) != ""
    return Grade(value=1.0 if is_right else -1.0, reason=verdict_reason(answer, label, is_right))
