"""Comparison of answers as mathematics. Only worker processes call it."""

from collections.abc import Sequence
from typing import Any, cast

from rl_data.grading.workers.messages import Comparison, Verdict

# Far more than what math-verify takes for a rounding, and far less than by which different answers differ.
_CLEAR_DIFFERENCE = 1e-2
# Where to try expressions: no point is special to any expression, and they are the same every time.
_POINTS = (0.7391, 1.2874, 2.0419, 0.3917, 1.6403, 0.9238)


def compare(task: Comparison) -> Verdict:
    """Compares by math-verify, without its own time limits (they need signals of the main thread)."""
    import math_verify as untyped

    math_verify = cast(Any, untyped)
    # Raw answers are not in math delimiters, without which LaTeX is not recognised.
    gold: list[Any] = math_verify.parse(_delimited(task.label), parsing_timeout=None)
    if not gold:
        return Verdict(value=0.0, reason="the reference answer is no mathematics, and the texts differ")
    given: list[Any] = math_verify.parse(_delimited(task.answer), parsing_timeout=None)
    if not given:
        return Verdict(value=0.0, reason="no mathematics found in the answer")
    if _clearly_differ(gold, given):
        # Only the expressions' texts are left to compare, which takes no simplification.
        gold, given = ([one for one in each if isinstance(one, str)] for each in (gold, given))
    is_right = bool(math_verify.verify(gold, given, timeout_seconds=None))
    relation = "equals" if is_right else "does not equal"
    return Verdict(value=float(is_right), reason=f"answer {task.answer[:80]!r} {relation} {task.label[:80]!r}")


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
