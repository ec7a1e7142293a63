"""`rl-data stats`: what is in a data set, as JSON, and how its lengths are spread, as a picture."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

import msgspec

from rl_data.commands.flags import (
    add_bad_rows,
    add_rendering,
    add_source,
    add_tokenizer,
    bad_row_share,
    open_source,
)
from rl_data.commands.output import write_output
from rl_data.commands.rendering import RenderedRows, check_flags, open_rendered
from rl_data.errors import DataError
from rl_data.histogram import as_svg, as_text, histogram_of
from rl_data.reading import most_bad_rows
from rl_data.source import RowFate
from rl_data.stats import data_stats, quantiles
from rl_data.tokenizer import load_tokenizer


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_source(parser)
    add_tokenizer(parser, is_required=False, more="; lengths are then in tokens of what training makes of a row")
    parser.add_argument("--histogram", type=Path, metavar="FILE.svg", help="where to write a picture of the lengths")
    add_rendering(parser)
    add_bad_rows(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes counts as JSON to standard output, and a histogram in letters to standard error."""
    picture = cast("Path | None", arguments.histogram)
    if picture is not None:
        _check_picture(picture)
    check_flags(arguments)
    share = bad_row_share(arguments)
    rows = open_source(arguments)
    training = None
    if arguments.tokenizer:
        training = open_rendered(arguments, load_tokenizer(arguments.tokenizer), on_bad_row=arguments.on_bad_row)
    most_bad = 0 if share is None else most_bad_rows(share, len(rows))
    counts = data_stats(rows, max_bad_rows=most_bad, input_key=arguments.input_key)
    shown: dict[str, object] = asdict(counts)
    lengths, unit = list(counts.lengths), "characters of content"
    shown_lengths = {"characters": quantiles(lengths)}
    if training is not None:
        pairs = list(training.lengths(max_bad_rows=most_bad))
        lengths, unit = [num_tokens for num_tokens, _ in pairs], "tokens"
        shown_lengths[unit] = quantiles(lengths)
        if arguments.kind != "prompts":
            shown_lengths["trained_tokens"] = quantiles([num_trained for _, num_trained in pairs])
        shown["training"] = _left_out(training, num_rows=len(pairs))
    shown["lengths"] = shown_lengths
    write_output(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
    histogram = histogram_of(lengths)
    sys.stderr.write(f"{unit} in a row\n{as_text(histogram)}\n")
    if picture is not None:
        title = f"{', '.join(arguments.source)}: {len(lengths):,} rows, median {quantiles(lengths)['p50']:,} {unit}"
        _write_picture(picture, as_svg(histogram, title=title, unit=f"{unit} in a row"))


def _left_out(training: RenderedRows, *, num_rows: int) -> dict[str, object]:
    """How many rows training gets, and which it does not, or not whole."""
    left_out: dict[str, object] = {"num_rows": num_rows}
    for fate in RowFate:
        left_out |= {f"num_{fate}": training.counts[fate], fate.value: training.notes[fate]}
    return left_out


def _check_picture(picture: Path) -> None:
    if picture.suffix != ".svg":
        raise DataError(f"--histogram {picture}: expected a name that ends in .svg")
    if not picture.parent.is_dir():
        raise DataError(f"--histogram {picture}: expected a folder {picture.parent}, found none")


def _write_picture(picture: Path, text: str) -> None:
    try:
        picture.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--histogram {picture}: cannot be written: {error.strerror or error}") from error
