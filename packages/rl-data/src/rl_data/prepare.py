"""Data sets as others publish them, made into messages in parquet. Needs pyarrow (`pip install rl-data[hf]`)."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import Message, check_turns, require_key

_ROWS_PER_GROUP = 1000
"""Shuffled reading reads whole row groups: small ones are read fast."""


class PreparedRow(TypedDict):
    """A row as it is written."""

    messages: list[Message]
    source: str | None
    """Which collection a conversation comes from, where the row says it."""


class PreparedCounts(NamedTuple):
    """What was written."""

    num_rows: int
    roles: Mapping[str, int]


def openhermes_row(row: Mapping[str, JsonValue]) -> PreparedRow:
    """A row of OpenHermes-2.5: human is the user, gpt the assistant.

    Raises:
        DataError: if it is no such row, or has nothing of the assistant to train on.
    """
    messages = check_turns(require_key(row, "conversations"), key="conversations")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("key 'conversations': expected a turn of gpt to train on, found none")
    source = row.get("source")
    return PreparedRow(messages=messages, source=source if isinstance(source, str) else None)


def write_parquet(rows: Iterable[PreparedRow], to: Path) -> PreparedCounts:
    """Writes rows to a parquet file, in row groups of 1000. The file appears when it is whole.

    Raises:
        DataError: if pyarrow is not installed, the file cannot be written, or there is no row.
    """
    try:
        import pyarrow
        import pyarrow.parquet as untyped_parquet
    except ImportError as error:
        raise DataError(f"{to}: parquet needs pyarrow: pip install 'rl-data[hf]'") from error
    arrow, parquet = cast(Any, pyarrow), cast(Any, untyped_parquet)
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    schema = arrow.schema([("messages", arrow.list_(message)), ("source", arrow.string())])
    roles: Counter[str] = Counter()
    num_rows = 0
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as folder:
            beside = Path(folder) / to.name
            with parquet.ParquetWriter(beside, schema, compression="zstd") as writer:
                for batch in batched(rows, _ROWS_PER_GROUP):
                    writer.write_table(arrow.Table.from_pylist(list(batch), schema=schema))
                    num_rows += len(batch)
                    roles.update(str(message["role"]) for row in batch for message in row["messages"])
            if num_rows == 0:
                raise DataError(f"{to}: no row is left to write")
            os.replace(beside, to)
    except OSError as error:
        raise DataError(f"{to}: cannot be written: {error.strerror or error}") from error
    return PreparedCounts(num_rows, dict(roles))
