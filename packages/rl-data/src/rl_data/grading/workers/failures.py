"""Errors that a library catches and passes over in silence, as math-verify does, seen all the same."""

import sys
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


class FailureWatch:
    """Sees, from when it is made, failures that the files of a package catch, and exhaustion that anybody catches.

    One a process, and for one thread. It stays: to begin and to end watching makes Python look through all of its code
    again, which takes longer than a comparison.
    """

    def __init__(self, package: str) -> None:
        self._folder = f"/{package}/"
        self._found: list[BaseException] = []
        handled = sys.monitoring.events.EXCEPTION_HANDLED
        sys.monitoring.use_tool_id(_TOOL, "rl-data")
        sys.monitoring.register_callback(_TOOL, handled, self._look)
        sys.monitoring.set_events(_TOOL, handled)

    def take(self) -> list[BaseException]:
        """What was seen since the last time."""
        found, self._found = self._found, []
        return found

    def _look(self, code: CodeType, _: int, error: BaseException) -> None:
        if isinstance(error, _EXHAUSTION) or (is_failure(error) and self._folder in code.co_filename):
            self._found.append(error)
