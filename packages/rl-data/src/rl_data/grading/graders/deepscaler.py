"""The grader of DeepScaleR: mathematics, after the thinking."""

from rl_data.grading.answers import final_answer
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import compare_mathematically
from rl_data.grading.workers.messages import Comparison


def grade_deepscaler(response: str, label: str) -> Grade | Comparison:
    """1.0 if the answer after the thinking equals the reference mathematically, else 0.0.

    Where there is a think tag, only what follows </think> is read, and thinking that does not end is a wrong answer.
    The answer is the last box or "Answer:" line.
    """
    thinking, end, solution = response.rpartition("</think>")
    if not end and "<think>" in solution:
        return Grade(value=0.0, reason="the thinking does not end")
    answer = final_answer(solution)
    if answer is None:
        return Grade(value=0.0, reason="no answer found" + (" after the thinking" if thinking else ""))
    return compare_mathematically(answer, label)
