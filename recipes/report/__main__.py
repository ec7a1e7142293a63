"""`python -m recipes.report RUN_DIR`: writes RUN_DIR/report.html."""

import argparse
import sys
from pathlib import Path

from recipes.console import StepConsole
from recipes.errors import UsageError
from recipes.report.page import write_report


def main() -> int:
    """Reads the flags, writes the page, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.report", description="One HTML page about a run.")
    parser.add_argument("run_dir", type=Path, help="folder of the run, with metrics.jsonl")
    flags = parser.parse_args()
    try:
        page = write_report(flags.run_dir)
    except UsageError as error:
        parser.error(str(error))
    StepConsole().say(str(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
