"""No text becomes code in a process that compares, except arithmetic.

sympy makes Python code of text in two places that an answer can reach. `parse_expr` is given plain arithmetic by
math-verify, and every number and texts of its own by sympy. `lambdify`, by which sympy sums series, prints the names of
symbols as they are, and a name can be anything that stands in \\text{...}.
"""

import re
import sys
from types import CodeType
from typing import Any

_LAMBDIFY_FILE = "<lambdifygenerated"
_PARSER = "sympy.parsing.sympy_parser"
_OWN_IMPORT = ("sympy",)  # the parser's own `from sympy import *`
# One argument, and an expression of it: numbers, operators and brackets, and functions of mathematics.
_FUNCTION = re.compile(
    r"def _lambdifygenerated\((?P<argument>[A-Za-z_]\w*)\):\s+return (?P<expression>[\w\s()+\-*/.,]*)"
)
_NAME = re.compile(r"[^\W\d]\w*")
_MATHEMATICS = frozenset({"cos", "exp", "log", "pi", "sin", "sqrt", "tan"})
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")


def refuse_code_of_text() -> None:
    """From now on this process raises NotImplementedError where text that is no arithmetic would become code.

    That is what sympy raises for an expression that it cannot evaluate.
    """
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "compile":
        source, file = arguments
        if isinstance(file, str) and file.startswith(_LAMBDIFY_FILE) and not _is_arithmetic(source):
            raise NotImplementedError("a name of the expression is no name in mathematics")
    elif event == "exec" and isinstance(arguments[0], CodeType) and arguments[0].co_filename == "<string>":
        asking = sys._getframe(1).f_globals.get("__name__")  # pyright: ignore[reportPrivateUsage]
        if asking == _PARSER and not _is_parsed_arithmetic(arguments[0]):
            raise NotImplementedError("the expression is more than arithmetic")


def _is_parsed_arithmetic(code: CodeType) -> bool:
    if any(isinstance(constant, CodeType) for constant in code.co_consts):
        return False
    return code.co_names == _OWN_IMPORT or all(_is_expression(name) for name in code.co_names)


def _is_expression(name: str) -> bool:
    """Whether a name is sympy's for an expression or a kind of them, as Integer, Symbol and pi are."""
    basic = sys.modules["sympy"].Basic
    meant = getattr(sys.modules["sympy"], name, None)
    return isinstance(meant, basic) or (isinstance(meant, type) and issubclass(meant, basic))


def _is_arithmetic(source: object) -> bool:
    text = source.decode(errors="replace") if isinstance(source, bytes) else source
    found = _FUNCTION.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or _ATTRIBUTE.search(found["expression"]):
        return False
    return {found["argument"], *_MATHEMATICS}.issuperset(_NAME.findall(found["expression"]))
