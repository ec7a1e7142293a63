"""The worker process that compares answers as mathematics: `python -m rl_data.grading.worker`.

It reads a JSON line for each comparison from its standard input and writes a JSON line with the verdict. It ends when
its input does. A comparison that outlives its time ends the process, even while no Python runs: the alarm is left to
the kernel's default action.
"""

import os
import resource
import signal
from typing import Any, cast

import msgspec

MAX_MEMORY_BYTES = 4 << 30
"""Address space; an expression that needs more fails alone instead of taking the machine's memory."""


class Request(msgspec.Struct, kw_only=True):
    """A comparison to make within `timeout_s`."""

    answer: str
    label: str
    timeout_s: float


class Verdict(msgspec.Struct, kw_only=True):
    """Whether the answers are equal, or why that cannot be said."""

    is_right: bool | None
    reason: str = ""


READY = b"ready\n"


def verify(answer: str, label: str) -> Verdict:
    """Compares by math-verify, without its own time limits (they need signals of the main thread)."""
    import math_verify as untyped

    math_verify = cast(Any, untyped)
    # Raw answers are not in math delimiters, without which LaTeX is not recognised.
    gold: list[Any] = math_verify.parse(_delimited(label), parsing_timeout=None)
    if not gold:
        return Verdict(is_right=False, reason="the reference answer is no mathematics, and the texts differ")
    given: list[Any] = math_verify.parse(_delimited(answer), parsing_timeout=None)
    if not given:
        return Verdict(is_right=False, reason="no mathematics found in the answer")
    return Verdict(is_right=bool(math_verify.verify(gold, given, timeout_seconds=None)))


def _delimited(text: str) -> str:
    return text if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else f"${text}$"


def main() -> None:
    """Answers requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # What a library prints must not mix with the verdicts.
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    verify("1/2", "0.5")  # imports everything that is imported late
    output.write(READY)
    with os.fdopen(0, "rb") as requests:
        for line in requests:
            request = msgspec.json.decode(line, type=Request)
            signal.setitimer(signal.ITIMER_REAL, request.timeout_s)
            try:
                verdict = verify(request.answer, request.label)
            # The text is a model's: any error that a parser of mathematics can raise belongs to this text alone.
            except Exception as error:  # noqa: BLE001
                verdict = Verdict(is_right=None, reason=f"{type(error).__name__}: {str(error)[:200]}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            output.write(msgspec.json.encode(verdict) + b"\n")


if __name__ == "__main__":
    main()
