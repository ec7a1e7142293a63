"""Comparison of answers as mathematics. Only worker processes call it."""

from typing import Any, cast

from rl_data.grading.workers.messages import Comparison, Verdict


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
    is_right = bool(math_verify.verify(gold, given, timeout_seconds=None))
    relation = "equals" if is_right else "does not equal"
    return Verdict(value=float(is_right), reason=f"answer {task.answer[:80]!r} {relation} {task.label[:80]!r}")


def _delimited(text: str) -> str:
    return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"
