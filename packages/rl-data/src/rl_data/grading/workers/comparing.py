"""Comparison of answers as mathematics. Only worker processes call it."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

from rl_data.grading.workers.failures import FailureWatch
from rl_data.grading.workers.messages import Comparison, Verdict

# Far more than what math-verify takes for a rounding, and far less than by which different answers differ.
_CLEAR_DIFFERENCE = 1e-2
# Where to try expressions: no point is special to any expression, and they are the same every time.
_POINTS = (0.7391, 1.2874, 2.0419, 0.3917, 1.6403, 0.9238)
# What math-verify says of a reference without a value, such as 1/0, and of chains of relations of different lengths.
_NOT_COMPARABLE = ("Can't evaluate nan or zoo", "zip() argument 2 is")
_WARM_UP = (
    ("1/2", "0.5"),
    ("x(x+1)", "x^2+x"),
    ("2x=4", "x=2"),
    ("(1,\\sqrt{4})", "(1,2)"),
    ("\\{2,1\\}", "\\{1,2\\}"),
    ("[1,\\sqrt{4}]", "[1,2]"),
    ("x>2", "2<x"),
    ("\\begin{pmatrix}1+1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\2\\end{pmatrix}"),
    ("\\sin^2(x)+\\cos^2(x)", "1"),
    ("\\int_0^1 x dx", "\\frac{1}{2}"),
)
"""Pairs of several kinds, equal or not."""


def warm_up() -> None:
    """Imports what comparing needs, and what sympy imports only when a kind of expression is met for the first time.

    Raises:
        RuntimeError: if 1/2 is not 0.5: then a library is missing or broken.
    """
    verdicts = [compare(Comparison(answer=answer, label=label)) for answer, label in _WARM_UP]
    if verdicts[0].value != 1.0:
        raise RuntimeError(f"math-verify does not work: {verdicts[0].reason}")


def compare(task: Comparison) -> Verdict:
    """Compares by math-verify, without its own time limits (they need signals of the main thread).

    What math-verify takes for no mathematics is a wrong answer. Where it failed, or ran out of memory or depth, and
    found nothing equal, nothing is known of the answer.

    Raises:
        Exception: what math-verify, or what it works with, failed with; see `is_failure`.
    """
    watch = _watch()
    watch.take()  # what another comparison left behind that ended by an error
    verdict = _compare(task)
    failures = watch.take()
    if failures and not verdict.value:
        raise next((failure for failure in failures if isinstance(failure, MemoryError)), failures[0])
    return verdict


@functools.cache
def _watch() -> FailureWatch:
    return FailureWatch("math_verify")


def _compare(task: Comparison) -> Verdict:
    gold = _parse(task.label)
    if not gold:
        return Verdict(value=0.0, reason="the reference answer is no mathematics, and the texts differ")
    given = _parse(task.answer)
    if not given:
        return Verdict(value=0.0, reason="no mathematics found in the answer")
    if _clearly_differ(gold, given):
        # Only the expressions' texts are left to compare, which takes no simplification.
        gold, given = ([one for one in each if isinstance(one, str)] for each in (gold, given))
    is_right = _equals(gold, given)
    relation = "equals" if is_right else "does not equal"
    return Verdict(value=float(is_right), reason=f"answer {task.answer[:80]!r} {relation} {task.label[:80]!r}")


def _parse(text: str) -> list[Any]:
    """The expression in the text and the text that was made of; the latter alone where it is no mathematics."""
    import math_verify as untyped

    # Raw answers are not in math delimiters, without which LaTeX is not recognised.
    return cast(Any, untyped).parse(_delimited(text), parsing_timeout=None, raise_on_error=True)


def _equals(gold: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether one of `gold` equals one of `given`.

    Raises:
        Exception: what math-verify raised for a pair, if no other pair is equal.
    """
    import math_verify as untyped

    failure: Exception | None = None
    pairs = list(itertools.product(gold, given))
    for pair in itertools.chain(pairs, _without_lone_letters(pairs)):
        try:
            if cast(Any, untyped).verify(*pair, timeout_seconds=None, raise_on_error=True):
                return True
        except ValueError as error:
            failure = failure if any(text in str(error) for text in _NOT_COMPARABLE) else error
        except Exception as error:  # noqa: BLE001 - raised again, unless another pair is equal
            failure = error
    if failure is not None:
        raise failure
    return False


def _without_lone_letters(pairs: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Of pairs of a letter and an expression that has it, such as x and 2x/2, both with 1 added.

    math-verify compares a letter with anything as text (0.9, `sympy_compare_symbols`), and sums as mathematics. To be
    given up when it compares only words so.
    """
    import sympy as untyped

    expression = cast(Any, untyped).Expr
    for first, second in pairs:
        if not isinstance(first, expression) or not isinstance(second, expression):
            continue
        if first.is_symbol == second.is_symbol or not first.free_symbols & second.free_symbols:
            continue
        if not _clearly_differ([first + 1], [second + 1]):
            yield first + 1, second + 1


def _delimited(text: str) -> str:
    return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"


def _clearly_differ(gold: Sequence[Any], given: Sequence[Any]) -> bool:
    """Whether two plain expressions have different values at a point: then no simplification makes them equal."""
    import sympy as untyped

    expression = cast(Any, untyped).Expr
    golds = [one for one in gold if not isinstance(one, str)]
    givens = [one for one in given if not isinstance(one, str)]
    if len(golds) != 1 or len(givens) != 1:
        return False
    if any(not isinstance(one, expression) or one.is_symbol for one in (golds[0], givens[0])):
        return False
    symbols = sorted(golds[0].free_symbols | givens[0].free_symbols, key=str)
    if len(symbols) > len(_POINTS):
        return False
    point = dict(zip(symbols, _POINTS, strict=False))
    first, second = _value_at(golds[0], point), _value_at(givens[0], point)
    if first is None or second is None:
        return False
    return abs(first - second) > _CLEAR_DIFFERENCE * max(1.0, abs(first), abs(second))


def _value_at(expression: Any, point: dict[Any, float]) -> complex | None:
    """The expression's value where its symbols have those of `point`; None where that is no finite number."""
    try:
        value = complex(expression.evalf(15, subs=point))
    # sympy raises whatever its parts do for what cannot be evaluated; the long way then decides.
    except Exception:  # noqa: BLE001
        return None
    return value if abs(value) < float("inf") else None
