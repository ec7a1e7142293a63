"""The grader of GSM8K."""

from rl_data.errors import DataError
from rl_data.grading.answers import MAX_ANSWER_CHARS, as_number, last_answer_line, normalise
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import verdict


def grade_gsm8k(response: str, label: str) -> Grade:
    """1.0 if the number after the last "####", or else in the last "Answer:" line, is the reference, else 0.0."""
    expected = as_number(normalise(label.rsplit("####", 1)[-1]))
    if expected is None:
        raise DataError(f"gsm8k: expected a label that is a number, got {label[:60]!r}")
    found = last_answer_line(response)
    answer = response.rsplit("####", 1)[1].split("\n", 1)[0] if "####" in response else (found[1] if found else None)
    if answer is None:
        return Grade(value=0.0, reason='neither "####" nor "Answer:" found')
    is_right = len(answer) <= MAX_ANSWER_CHARS and as_number(normalise(answer)) == expected
    return verdict(answer, label, is_right)
