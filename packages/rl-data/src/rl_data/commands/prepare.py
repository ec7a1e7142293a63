"""`rl-data prepare`: data sets as others publish them, made into messages in parquet."""

import argparse
import sys
from pathlib import Path
from typing import cast

from rl_data.commands.flags import add_bad_rows, add_source, open_source
from rl_data.commands.good_rows import GoodRows, add_list_flag, bad_row_rules
from rl_data.errors import DataError
from rl_data.prepare import PreparedRow, openhermes_row, write_parquet


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument(
        "recipe",
        choices=("openhermes",),
        help="openhermes: {conversations: [{from, value}]} as {messages: [{role, content}]}, and the row's source",
    )
    add_source(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE.parquet", help="the file to write")
    add_bad_rows(parser)
    add_list_flag(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes the file, whole or not at all, and says on standard error what is in it."""
    to = cast("Path", arguments.to)
    if to.suffix != ".parquet":
        raise DataError(f"--to {to}: expected a name that ends in .parquet, by which it is read again")
    rules = bad_row_rules(arguments)
    good: GoodRows[PreparedRow] = GoodRows(open_source(arguments), openhermes_row, rules)
    counts = write_parquet((row for _, row in good), to)
    roles = ", ".join(f"{count:,} of {role}" for role, count in sorted(counts.roles.items()))
    sys.stderr.write(f"{to}: {counts.num_rows:,} rows, {good.num_bad:,} bad ones left out; messages: {roles}\n")
