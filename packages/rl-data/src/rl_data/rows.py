"""Data sets of rows behind one interface: JSON lines, parquet, and slices of either."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.jsonl import JsonlFile

_SLICE = re.compile(r"^(?P<path>.+)@\[(?P<start>-?\d*):(?P<stop>-?\d*)\]$")


class RowFile(Protocol):
    """Rows by position."""

    @property
    def fingerprint(self) -> str:
        """Digest of the content; equal for equal rows, whatever the file's name."""
        ...

    def __len__(self) -> int:
        """Number of rows, at least 1."""
        ...

    def row(self, index: int) -> dict[str, JsonValue]:
        """The row at `index`, from 0."""
        ...

    def rows(self) -> Iterator[dict[str, JsonValue]]:
        """Every row in order."""
        ...

    def where(self, index: int) -> str:
        """How messages name a row."""
        ...


class RowSlice:
    """Rows [start, stop) of a file.

    Raises:
        DataError: if no row is left.
    """

    def __init__(self, rows: RowFile, start: int | None, stop: int | None, *, name: str) -> None:
        self._rows = rows
        self._range = range(len(rows))[start:stop]
        if not self._range:
            raise DataError(f"{name}: expected at least one row, but the file has {len(rows)} and the slice takes none")
        self.fingerprint = f"{rows.fingerprint}@[{self._range.start}:{self._range.stop}]"

    def __len__(self) -> int:
        """Number of rows in the slice."""
        return len(self._range)

    def row(self, index: int) -> dict[str, JsonValue]:
        """The row at `index`, counted from the slice's start."""
        return self._rows.row(self._range[index])

    def rows(self) -> Iterator[dict[str, JsonValue]]:
        """Every row of the slice in order."""
        return (self.row(index) for index in range(len(self._range)))

    def where(self, index: int) -> str:
        """The row's place in the whole file."""
        return self._rows.where(self._range[index])


def open_rows(source: str) -> RowFile:
    """Opens PATH or PATH@[a:b]; the ending tells the format: .parquet, or JSON lines.

    Args:
        source: a file, with a slice in Python's meaning (`data.jsonl@[:100]`, `data.jsonl@[-50:]`) if wanted.

    Raises:
        DataError: if the file is missing, empty, unreadable or of an unknown format.
    """
    match = _SLICE.match(source)
    path = Path(match["path"] if match else source)
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    rows: RowFile
    if path.suffix == ".parquet":
        from rl_data.parquet import ParquetFile

        rows = ParquetFile(path)
    elif path.suffix in (".jsonl", ".ndjson", ".json"):
        rows = JsonlFile(path)
    else:
        raise DataError(f"{path}: expected a file ending in .jsonl or .parquet")
    if match is None:
        return rows
    start, stop = (int(bound) if bound else None for bound in (match["start"], match["stop"]))
    return RowSlice(rows, start, stop, name=source)


@contextmanager
def located(rows: RowFile, index: int) -> Generator[None]:
    """Puts the row's place before the message of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{rows.where(index)}: {error}") from error
