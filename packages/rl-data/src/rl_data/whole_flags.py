"""Flags by their whole names: none may be shortened, and one that is misspelt is told the nearest.

rl-weights has the same: neither package needs the other.
"""

import argparse
import difflib
import sys
from collections.abc import Collection, Mapping, Sequence


def parse_whole_flags(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], argv: Sequence[str] | None
) -> argparse.Namespace:
    """What the command line says. A shortened flag could come to mean another one when flags are added.

    Args:
        parser: of the program.
        commands: parser of each command, which is the first word.
        argv: the words; those of this process if None.

    Raises:
        SystemExit: for a usage error, which is printed.
    """
    words = sys.argv[1:] if argv is None else argv
    for one in (parser, *commands.values()):
        one.allow_abbrev = False
    if words and (command := commands.get(words[0])) is not None:
        # Before the rest is parsed: a required flag that is misspelt is not missing.
        for word in words[1 : words.index("--") if "--" in words else None]:
            flag = word.partition("=")[0]
            known = command._option_string_actions  # pyright: ignore[reportPrivateUsage] - there is no other list
            if flag.startswith("--") and flag not in known:
                command.error(f"unknown flag {flag}{_hint(flag, known)}")
    return parser.parse_args(words)


def _hint(flag: str, known: Collection[str]) -> str:
    longer = [one for one in known if one.startswith(flag)]
    near = longer or difflib.get_close_matches(flag, known, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else ""
