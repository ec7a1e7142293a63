"""The grader of multiple-choice questions."""

import re

from rl_data.errors import DataError
from rl_data.grading.answers import last_boxed
from rl_data.grading.grade import Grade
from rl_data.grading.graders.by_answer import verdict

_LETTER = r"(?:\\(?:text|mathrm|mathbf|textbf)\{)?[(\[]?([A-Z])(?![A-Za-z0-9'])"
_BOXED = re.compile(rf"[\s$*]*{_LETTER}")
_ALONE = re.compile(rf"[\s$*]*{_LETTER}(?=\s*(?:$|[)\].:,*\n]))")
# Colons and blanks may stand between the words and the letter, but no other word: "the answer is not B". The runs of
# them give nothing back (*+): a response that ends in a million blanks would take hours otherwise.
_STATED = re.compile(
    r"\b(?i:answer|option|choice)(?i:[ \t*]*+(?:is|:|=)[ \t*:$]*+(?:option|choice|letter)?)[ \t*$]*+" + _LETTER
)
_LABEL = re.compile(r"\s*[(\[]?([A-Za-z])[)\].:]?\s*")


def grade_multiple_choice(response: str, label: str) -> Grade:
    """1.0 if the response chooses the letter that the label is, else 0.0.

    What follows the last </think> is read. The letter is that of the last box, or else of the last "Answer: B", "the
    answer is (B)", "option: B", or else the one that the response begins with, as in "B." or "(B) because ...". A
    lower-case letter is no choice, for "a" is a word.
    """
    expected = _LABEL.fullmatch(label)
    if expected is None:
        raise DataError(f"multiple_choice: expected a label that is one letter, got {label[:60]!r}")
    text = response.rpartition("</think>")[2]
    boxed = last_boxed(text)
    stated = list(_STATED.finditer(text))
    found = _BOXED.match(boxed[1]) if boxed else (stated[-1] if stated else _ALONE.match(text))
    if found is None:
        return Grade(value=0.0, reason="no letter chosen")
    return verdict(found[1], label, found[1] == expected[1].upper())
