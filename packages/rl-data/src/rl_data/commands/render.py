"""`rl-data render`: a row as training sees it, the trained tokens in colour."""

import argparse
import itertools
import sys

import msgspec

from rl_data.commands.flags import add_rendering, add_source, add_tokenizer, open_source
from rl_data.commands.output import write_output
from rl_data.commands.rendering import RenderedRow, check_flags, open_rendered
from rl_data.errors import DataError
from rl_data.source import RowFate
from rl_data.tokenizer import Tokenizer, load_tokenizer

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
    """Writes the row to standard output, and to standard error how long it is, and what graders get of a prompt."""
    check_flags(arguments)
    rows = open_source(arguments)
    if not 0 <= arguments.row < len(rows):
        raise DataError(f"{', '.join(arguments.source)}: expected a row in [0, {len(rows)}), got {arguments.row}")
    tokenizer = load_tokenizer(arguments.tokenizer)
    # Other rows are let pass: one that cannot be used is named when it is asked for.
    rendered = open_rendered(arguments, tokenizer, on_bad_row="skip").render(arguments.row)
    is_on_terminal = arguments.color == "auto" and sys.stdout.isatty()
    _write_text(rendered, tokenizer, is_green=arguments.color == "always" or is_on_terminal)
    note = rendered.note
    if note is None or note.fate is not RowFate.DROPPED:
        trained = "a prompt" if arguments.kind == "prompts" else f"{int(rendered.loss_mask.sum())} trained"
        sys.stderr.write(f"\n{rows.where(arguments.row)}: {len(rendered.tokens)} tokens, {trained}\n")
    if note is not None:
        sys.stderr.write(f"{note.fate}: {note.message}\n")
    if rendered.label is not None:
        sys.stderr.write(f"label: {rendered.label}\n")
    if rendered.metadata:
        sys.stderr.write(f"metadata: {msgspec.json.encode(rendered.metadata, enc_hook=str).decode()}\n")


def _write_text(rendered: RenderedRow, tokenizer: Tokenizer, *, is_green: bool) -> None:
    opening, closing = (_GREEN, _PLAIN) if is_green else ("[[", "]]")
    pairs = zip(rendered.tokens.tolist(), rendered.loss_mask.tolist(), strict=True)
    for is_trained, run_of_tokens in itertools.groupby(pairs, key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run_of_tokens])
        write_output(f"{opening}{text}{closing}" if is_trained else text)
