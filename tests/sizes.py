"""Holds files and functions to the limits of CONTRIBUTING.md; `nox -s sizes` runs it.

Soft limits are printed, hard limits fail. A file that has to be longer stands in ALLOWED with its reason.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOFT_FILE, HARD_FILE = 400, 600
SOFT_FUNCTION, HARD_FUNCTION = 60, 80
ALLOWED: dict[str, str] = {}


def main() -> int:
    """Prints every file and function over a limit; returns 1 if one is over a hard limit."""
    num_over_hard = 0
    for path in [*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("bench/*.py")]:
        name = str(path.relative_to(ROOT))
        text = path.read_text()
        found = [(name, text.count("\n"), SOFT_FILE, HARD_FILE)] if name not in ALLOWED else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                found.append((f"{name}:{node.name}", length, SOFT_FUNCTION, HARD_FUNCTION))
        for what, length, soft, hard in found:
            if length > soft:
                word = "over" if length > hard else "near"
                sys.stdout.write(f"{word} the limit of {hard} lines: {what} has {length}\n")
                num_over_hard += length > hard
    return int(num_over_hard > 0)


if __name__ == "__main__":
    raise SystemExit(main())
