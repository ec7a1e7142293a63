"""`rl-data stats`: what is in a data set, as JSON, and how its lengths are spread, as a picture."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

import msgspec

from rl_data.commands.flags import add_bad_rows, add_rendering, add_source, max_bad_rows, open_source
from rl_data.commands.good_rows import GoodRows
from rl_data.commands.rendering import RowRenderer
from rl_data.errors import DataError
from rl_data.histogram import as_svg, as_text, histogram_of
from rl_data.stats import data_stats, quantiles
from rl_data.tokenizer import load_tokenizer


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_source(parser)
    parser.add_argument("--tokenizer", metavar="DIR", help="model folder; lengths are in tokens of the rendered rows")
    parser.add_argument("--histogram", type=Path, metavar="FILE.svg", help="where to write a picture of the lengths")
    add_rendering(parser)
    add_bad_rows(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes counts as JSON to standard output, and a histogram in letters to standard error."""
    picture = cast("Path | None", arguments.histogram)
    if picture is not None and picture.suffix != ".svg":
        raise DataError(f"--histogram {picture}: expected a name that ends in .svg")
    rows = open_source(arguments)
    most_bad = max_bad_rows(arguments, len(rows))
    counts = data_stats(rows, max_bad_rows=most_bad)
    shown: dict[str, object] = asdict(counts)
    lengths, unit = list(counts.lengths), "characters"
    shown["lengths"] = {unit: quantiles(lengths)}
    if arguments.tokenizer:
        renderer = RowRenderer(
            load_tokenizer(arguments.tokenizer, needs_chat_template=True),
            input_key=arguments.input_key,
            arguments=arguments.apply_chat_template_kwargs,
        )
        rendered = GoodRows(rows, lambda row: len(renderer.render(row)[0]), max_bad_rows=most_bad)
        lengths, unit = [length for _, length in rendered], "tokens"
        shown["num_unrendered_rows"] = rendered.num_bad
        shown["lengths"] = {"characters": quantiles(counts.lengths), unit: quantiles(lengths)}
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
    histogram = histogram_of(lengths)
    sys.stderr.write(f"{unit} in a row\n{as_text(histogram)}\n")
    if picture is not None:
        title = f"{', '.join(arguments.source)}: {len(lengths):,} rows, median {quantiles(lengths)['p50']:,} {unit}"
        picture.write_text(as_svg(histogram, title=title, unit=f"{unit} in a row"), encoding="utf-8")
