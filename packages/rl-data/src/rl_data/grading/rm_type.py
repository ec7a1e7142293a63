"""Reward types as they are written: the name of a grader, or several as a weighted sum, `0.9*math + 0.1*format`."""

import difflib
import math
from typing import NamedTuple

from rl_data.errors import DataError

ANSWER_GRADERS = ("boxed", "dapo", "deepscaler", "gsm8k", "math", "multiple_choice")
"""Graders that compare with a reference answer."""

OTHER_GRADERS = ("custom", "format", "overlong", "remote")
"""Graders that need no reference answer."""

RM_TYPES = tuple(sorted((*ANSWER_GRADERS, *OTHER_GRADERS)))
"""Every grader's name."""

_NEGATIVE = frozenset({"dapo", "overlong"})


class Term(NamedTuple):
    """A grader and the weight of its value in the reward."""

    weight: float
    name: str


def parse_rm_type(text: str) -> tuple[Term, ...]:
    """The terms of a reward type; one of weight 1 for a plain name.

    Raises:
        DataError: if a name is unknown or stands twice, or a weight is no number.
    """
    terms = tuple(_term(part, text) for part in text.split("+"))
    names = [term.name for term in terms]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"rm_type {text!r}: expected each grader once, got {', '.join(sorted(twice))} more often")
    return terms


def needs_label(text: str) -> bool:
    """Whether a grader of the reward type compares with a reference answer."""
    return any(term.name in ANSWER_GRADERS for term in parse_rm_type(text))


def can_be_negative(text: str) -> bool:
    """Whether a grader of the reward type is known to give values below 0; of custom and remote ones nothing is."""
    return any(term.weight < 0 or term.name in _NEGATIVE for term in parse_rm_type(text))


def _term(part: str, text: str) -> Term:
    weight_text, star, name = part.rpartition("*")
    name = name.strip()
    if name not in RM_TYPES:
        where = "rm_type" if name == text else f"rm_type {text!r}"
        near = difflib.get_close_matches(name, RM_TYPES, n=1)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise DataError(
            f"{where}: expected one of {list(RM_TYPES)} or a sum such as 0.9*math+0.1*format, got {name!r}{hint}"
        )
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise DataError(f"rm_type {text!r}: expected a number other than 0 before {name}, got {weight_text.strip()!r}")
    return Term(weight, name)
