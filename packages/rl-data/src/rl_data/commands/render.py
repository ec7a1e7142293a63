"""`rl-data render`: a row as training sees it, the trained tokens in colour."""

import argparse
import itertools
import sys

from rl_data.commands.flags import add_rendering, add_source, add_tokenizer, open_source
from rl_data.commands.rendering import check_flags, open_training
from rl_data.errors import DataError
from rl_data.source import RowFate
from rl_data.tokenizer import load_tokenizer

_GREEN, _PLAIN = "\033[32m", "\033[0m"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_source(parser)
    add_tokenizer(parser, is_required=True)
    parser.add_argument("--row", type=int, default=0, help="number of the row, from 0")
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="mark trained tokens green, or with [[ and ]]; auto: green on a terminal",
    )
    add_rendering(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes the row to standard output, and the number of tokens, and what was left out, to standard error."""
    rows = open_source(arguments)
    if not 0 <= arguments.row < len(rows):
        raise DataError(f"{', '.join(arguments.source)}: expected a row in [0, {len(rows)}), got {arguments.row}")
    check_flags(arguments)
    tokenizer = load_tokenizer(arguments.tokenizer)
    # Other rows are let pass: one that cannot be used is named when it is asked for.
    tokens, mask, note = open_training(arguments, tokenizer, on_bad_row="skip").render(arguments.row)
    is_green = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    opening, closing = (_GREEN, _PLAIN) if is_green else ("[[", "]]")
    pairs = zip(tokens.tolist(), mask.tolist(), strict=True)
    for is_trained, run_of_tokens in itertools.groupby(pairs, key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run_of_tokens])
        sys.stdout.write(f"{opening}{text}{closing}" if is_trained else text)
    sys.stdout.flush()
    if note is None or note.fate is not RowFate.DROPPED:
        trained = "a prompt" if arguments.kind == "prompts" else f"{int(mask.sum())} trained"
        sys.stderr.write(f"\n{rows.where(arguments.row)}: {len(tokens)} tokens, {trained}\n")
    if note is not None:
        sys.stderr.write(f"{note.fate}: {note.message}\n")
