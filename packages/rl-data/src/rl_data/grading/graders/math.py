"""The grader of mathematics."""

from rl_data.grading.answers import MAX_ANSWER_CHARS, final_answer, normalise, stated_plainly
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import compare_mathematically, comparison, verdict
from rl_data.grading.workers.messages import Comparison


def grade_math(response: str, label: str) -> Grade | Comparison:
    """1.0 if the answer equals the reference mathematically, else 0.0.

    The answer is the last box or "Answer:" line; without either, math-verify looks for one in the response's end.
    """
    answer = final_answer(response)
    if answer is not None:
        return compare_mathematically(answer, label)
    tail = response[-MAX_ANSWER_CHARS:]
    stated = stated_plainly(tail)
    if normalise(stated) == normalise(label) != "":
        return verdict(stated, label, True)
    return comparison(tail, label)
