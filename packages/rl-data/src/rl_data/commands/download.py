"""`rl-data download`: a model or a data set of the Hugging Face hub, in a folder."""

import argparse
import logging
from pathlib import Path

from rl_data.commands.output import write_output
from rl_data.hub import CATALOG, download


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    parser.add_argument("name", help=f"{', '.join(CATALOG)}, or OWNER/NAME of the hub")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder; what is whole in it stays")
    parser.add_argument("--type", choices=("model", "dataset"), help="what OWNER/NAME is (default: dataset)")
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    parser.add_argument("--endpoint", metavar="URL", help="address of the hub (default: HF_ENDPOINT or huggingface.co)")


def run(arguments: argparse.Namespace) -> None:
    """Shows a bar and a line for each file on standard error, and at the end, on standard output, what is there."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each request among the bars
    done = download(
        arguments.name,
        arguments.to,
        kind=arguments.type,
        revision=arguments.revision,
        endpoint=arguments.endpoint,
    )
    write_output(
        f"{arguments.to}: {done.repo.kind} {done.repo.name} at {done.commit}: {done.num_fetched} files fetched, "
        f"{done.num_present} were there, {done.num_bytes / 1e6:,.1f} MB, digests checked; {done.content}\n"
    )
