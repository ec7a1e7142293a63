"""Errors that a library catches and passes over in silence, as math-verify does, seen all the same."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import CodeType

_EXHAUSTION = (MemoryError, RecursionError)
# What Python and sympy raise for an expression that makes no sense or that nobody knows how to evaluate.
_MEANT = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
_MEANT_OF = ("sympy", "antlr4", "latex2sympy2_extended", "mpmath", "math_verify")
_TOOL = 3  # of the six numbers of sys.monitoring one that is nobody's by convention


def is_failure(error: BaseException) -> bool:
    """Whether an error tells of a defect or of exhaustion, and not of text that is no mathematics.

    No mathematics is what latex2sympy's parser means by a plain `Exception`, what sympy's own classes of errors mean,
    and what comes of working with an object that the text does not stand for.
    """
    kind = type(error)
    if isinstance(error, _EXHAUSTION):
        return True
    if not isinstance(error, Exception):  # the end of a generator, say
        return False
    return not (isinstance(error, _MEANT) or kind is Exception or kind.__module__.startswith(_MEANT_OF))


@contextmanager
def noticed_failures(package: str) -> Generator[list[BaseException]]:
    """Gathers failures that the files of `package` catch, and exhaustion that anybody catches. Not for two threads."""
    found: list[BaseException] = []
    monitoring = sys.monitoring
    handled = monitoring.events.EXCEPTION_HANDLED

    def look(code: CodeType, _: int, error: BaseException) -> None:
        if isinstance(error, _EXHAUSTION) or (is_failure(error) and f"/{package}/" in code.co_filename):
            found.append(error)

    monitoring.use_tool_id(_TOOL, "rl-data")
    monitoring.register_callback(_TOOL, handled, look)
    monitoring.set_events(_TOOL, handled)
    try:
        yield found
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.register_callback(_TOOL, handled, None)
        monitoring.free_tool_id(_TOOL)
