"""The command `rl-data`: fetches and prepares data, shows it as the model sees it, counts what is in it, grades."""

import argparse
import os
import sys
from collections.abc import Sequence

from rl_data.commands import download, grade, prepare, render, stats
from rl_data.commands.output import OutputError
from rl_data.errors import RLDataError
from rl_data.whole_flags import parse_whole_flags

_COMMANDS = {
    "download": (download, "fetch a model or a data set from the Hugging Face hub, and check it"),
    "prepare": (prepare, "make a published data set into messages in parquet"),
    "stats": (stats, "count rows, keys, roles, lengths and duplicates, and draw a histogram"),
    "render": (render, "print a row as the model sees it, with the trained tokens marked"),
    "grade": (grade, "grade responses; prints a line of JSON for each"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code: 0, or 2 after one message about what the user can mend."""
    parser = argparse.ArgumentParser(prog="rl-data", description="Data for post-training language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (command, text) in _COMMANDS.items():
        command.add_parser(commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}."))
    arguments = parse_whole_flags(parser, commands.choices, argv)
    try:
        _COMMANDS[arguments.command][0].run(arguments)
    except RLDataError as error:
        print(f"rl-data: {error}", file=sys.stderr)
        if isinstance(error, OutputError):
            _drop_output()
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
    return 0


def _drop_output() -> None:
    """Nothing is flushed to standard output at exit, where it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
