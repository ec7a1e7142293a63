"""Graders by the name of their reward type. Each answers from text alone, or says what mathematics it needs.

A grader takes a response and the reference answer. It gives a `Grade`, or, where text does not decide it, a
`Comparison` for a worker process: mathematics written by a model is parsed nowhere else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rl_data.errors import DataError
from rl_data.grading.answers import (
    MAX_ANSWER_CHARS,
    as_number,
    compare,
    final_answer,
    last_answer_line,
    last_boxed,
    normalise,
)
from rl_data.grading.grade import Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two answers that a worker has to compare as mathematics."""

    answer: str
    label: str


type Grader = Callable[[str, str], Grade | Comparison]
"""Takes the response and the reference answer."""

_DAPO_CHARS = 300


def grade_dapo(response: str, label: str) -> Grade:
    """1.0 if right and -1.0 if wrong, as in the DAPO paper (Yu et al. 2025, section 2.4).

    Only the last 300 characters are read. The last "Answer:" line in them counts, or else the last box; both answers
    are compared as text after normalisation.
    """
    tail = response[-_DAPO_CHARS:]
    found = last_answer_line(tail) or last_boxed(tail)
    if found is None:
        return Grade(value=-1.0, reason=f"no answer in the last {_DAPO_CHARS} characters")
    boxed = last_boxed(found[1])
    answer = boxed[1] if boxed else found[1]
    is_right = normalise(answer) == normalise(label) != ""
    return Grade(value=1.0 if is_right else -1.0, reason=_reason(answer, label, is_right))


def grade_boxed(response: str, label: str) -> Grade:
    """1.0 if the last box holds the reference answer as text or number, else 0.0."""
    found = last_boxed(response)
    if found is None:
        return Grade(value=0.0, reason="no \\boxed{} found")
    return _verdict(found[1], label, bool(compare(found[1], label)))


def grade_gsm8k(response: str, label: str) -> Grade:
    """1.0 if the number after the last "####", or else in the last "Answer:" line, is the reference, else 0.0."""
    expected = as_number(normalise(label.rsplit("####", 1)[-1]))
    if expected is None:
        raise DataError(f"gsm8k: expected a label that is a number, got {label[:60]!r}")
    found = last_answer_line(response)
    answer = response.rsplit("####", 1)[1].split("\n", 1)[0] if "####" in response else (found[1] if found else None)
    if answer is None:
        return Grade(value=0.0, reason='neither "####" nor "Answer:" found')
    return _verdict(answer, label, as_number(normalise(answer)) == expected)


def grade_math(response: str, label: str) -> Grade | Comparison:
    """1.0 if the answer equals the reference mathematically, else 0.0.

    The answer is the last box or "Answer:" line; without either, math-verify looks for one in the response's end.
    """
    answer = final_answer(response)
    if answer is None:
        return _comparison(response[-MAX_ANSWER_CHARS:], label)
    return _grade_answer(answer, label)


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
    return _grade_answer(answer, label)


GRADERS: Mapping[str, Grader] = {
    "boxed": grade_boxed,
    "dapo": grade_dapo,
    "deepscaler": grade_deepscaler,
    "gsm8k": grade_gsm8k,
    "math": grade_math,
}
"""Graders by reward type."""

NEEDS_WORKERS = frozenset({"deepscaler", "math"})
"""Reward types whose graders can give a `Comparison`."""


def grader_for(rm_type: str) -> Grader:
    """The grader of a reward type.

    Raises:
        DataError: if there is none of that name.
    """
    if rm_type not in GRADERS:
        raise DataError(f"rm-type: expected one of {sorted(GRADERS)}, got {rm_type!r}")
    return GRADERS[rm_type]


def _grade_answer(answer: str, label: str) -> Grade | Comparison:
    if len(answer) > MAX_ANSWER_CHARS:
        return Grade(value=0.0, reason=f"the answer has {len(answer)} characters, more than {MAX_ANSWER_CHARS}")
    is_right = compare(answer, label)
    return _comparison(answer, label) if is_right is None else _verdict(answer, label, is_right)


def _comparison(answer: str, label: str) -> Comparison:
    """What a worker is asked; numbers go without their dollar signs and separators, which are no mathematics."""
    number = normalise(label)
    return Comparison(answer=answer, label=label if as_number(number) is None else number)


def _verdict(answer: str, label: str, is_right: bool) -> Grade:
    return Grade(value=float(is_right), reason=_reason(answer, label, is_right))


def _reason(answer: str, label: str, is_right: bool) -> str:
    return f"answer {answer[:80]!r} {'is' if is_right else 'is not'} {label[:80]!r}"
