"""Data sets of the Hugging Face hub, through `datasets`, which downloads them once and keeps them as Arrow files."""

from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

from rl_data.errors import DataError
from rl_data.rows.arrow import ArrowFile
from rl_data.rows.combined import RowChain
from rl_data.rows.row_file import RowFile

PREFIX = "hub:"
_OPTIONS = ("config", "split", "revision")


def open_hub(source: str) -> RowFile:
    """Opens hub:OWNER/NAME, or hub:OWNER/NAME?split=test&config=main&revision=v2; the split is train by default.

    What was downloaded before is read without a network where HF_HUB_OFFLINE=1 is set.

    Raises:
        DataError: if `datasets` is not installed or does not give the data set; the message is its own.
    """
    name, _, query = source.removeprefix(PREFIX).partition("?")
    if not name:
        raise DataError(f"{source}: expected hub:OWNER/NAME, found no name")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise DataError(f"{source}: expected options of {', '.join(_OPTIONS)}, found {', '.join(unknown)}")
    try:
        import datasets as untyped
    except ImportError as error:
        raise DataError(f"{source}: hub data sets need datasets: pip install 'rl-data[hf]'") from error
    try:
        data_set = cast(Any, untyped).load_dataset(
            name, options.get("config"), split=options.get("split", "train"), revision=options.get("revision")
        )
    # Whatever goes wrong there, in the network, the hub's answers or the files' formats, is about this data set.
    except Exception as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""  # "an error occurred" says little
        raise DataError(f"{source}: {type(error).__name__}: {error}{cause}") from error
    files = [Path(file["filename"]) for file in data_set.cache_files]
    if not files:
        raise DataError(f"{source}: expected Arrow files of `datasets`, found none: an empty split?")
    rows: RowFile = RowChain([ArrowFile(file) for file in files]) if len(files) > 1 else ArrowFile(files[0])
    if len(rows) != len(data_set):  # `datasets` gives a part of a split as whole files and a range
        raise DataError(f"{source}: expected a whole split, got {len(data_set)} of {len(rows)} rows; use @[START:STOP]")
    return rows
