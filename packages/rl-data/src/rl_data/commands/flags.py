"""Flags that several commands share."""

import argparse
import json
from typing import cast

from rl_data.commands.rendering import KEYS
from rl_data.json import JsonValue
from rl_data.rows import RowFile, open_rows
from rl_data.rows.combined import RowChain

SOURCE_HELP = (
    "files (.jsonl, also .gz or .zst, .parquet, .arrow), folders, patterns or hub:OWNER/NAME; each with a slice, as in "
    "FILE@[0:100], if wanted"
)


def add_source(parser: argparse.ArgumentParser, *, more: str = "") -> None:
    """What is read."""
    parser.add_argument("source", nargs="+", help=SOURCE_HELP + more)


def open_source(arguments: argparse.Namespace) -> RowFile:
    """The rows that were named.

    Raises:
        DataError: if one of the data sets is missing, empty or unreadable.
    """
    parts = [open_rows(source) for source in cast("list[str]", arguments.source)]
    return RowChain(parts) if len(parts) > 1 else parts[0]


def add_bad_rows(parser: argparse.ArgumentParser) -> None:
    """What becomes of bad rows."""
    parser.add_argument(
        "--on-bad-row", choices=("stop", "skip"), default="stop", help="what a row that cannot be used does"
    )
    parser.add_argument(
        "--max-bad-row-share",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="with --on-bad-row skip: the share of bad rows above which it stops all the same (default: 0.01)",
    )


def max_bad_rows(arguments: argparse.Namespace, num_rows: int) -> float:
    """How many bad rows are let pass."""
    return 0.0 if arguments.on_bad_row == "stop" else float(arguments.max_bad_row_share) * num_rows


def add_rendering(parser: argparse.ArgumentParser) -> None:
    """How rows are rendered."""
    parser.add_argument("--input-key", help=f"key of the messages; default: the first there is of {', '.join(KEYS)}")
    parser.add_argument(
        "--apply-chat-template-kwargs",
        type=_json_object,
        default={},
        metavar="JSON",
        help='variables for the chat template, such as {"enable_thinking": false}',
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value


def _json_object(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}, got {text}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return cast("dict[str, JsonValue]", value)
