"""What parquet and Arrow files share: tables in parts, of which single rows are taken."""

import bisect
import contextlib
import itertools
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rl_data.errors import DataError
from rl_data.rows.row_digests import RowDigests
from rl_data.rows.row_file import NumberedRow, OnBadRow, Row, RowFile

BATCH_ROWS = 1024
"""Rows that become Python objects at once."""

_MAX_CACHED_BYTES = 1 << 28


class TableParts(Protocol):
    """The parts of a file: row groups or record batches."""

    path: Path
    kind: str
    """How messages name a part."""
    num_rows: list[int]
    """Of each part."""

    @abstractmethod
    def part(self, number: int) -> Any:
        """A part as an Arrow table or record batch, kept in memory for a while.

        Raises:
            DataError: if it is damaged.
        """
        ...

    @abstractmethod
    def batches(self, number: int) -> Iterator[Any]:
        """A part as record batches of at most `BATCH_ROWS` rows, of which nothing is kept.

        Raises:
            DataError: if it is damaged.
        """
        ...


class PartCache:
    """Parts as Arrow tables or record batches: those used last, up to 256 MiB and one more.

    Shuffled reading jumps between parts, and reading one takes long.
    """

    def __init__(self) -> None:
        self._parts: OrderedDict[int, Any] = OrderedDict()

    def part(self, number: int, read: Callable[[int], Any]) -> Any:
        """The part, by `read` if it is not here."""
        if number in self._parts:
            self._parts.move_to_end(number)
            return self._parts[number]
        part = self._parts[number] = read(number)
        while len(self._parts) > 1 and sum(int(kept.nbytes) for kept in self._parts.values()) > _MAX_CACHED_BYTES:
            self._parts.popitem(last=False)
        return part


class TableFile(RowFile):
    """Rows of a table.

    Raises:
        DataError: if the file has no row, or is damaged.
    """

    def __init__(self, parts: TableParts) -> None:
        table = _Table(parts, [0, *itertools.accumulate(parts.num_rows)])
        if table.starts[-1] == 0:
            raise DataError(f"{parts.path}: expected at least one row, found none")
        self.path = parts.path
        self._table = table
        self._digests = RowDigests(
            self.path,
            len(self),
            lambda first: (None if isinstance(row, DataError) else row for _, row in table.rows_from(first)),
        )

    def __len__(self) -> int:
        """Number of rows."""
        return self._table.starts[-1]

    def row(self, index: int) -> Row:
        """The row at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        number = self._table.part_of(index)
        return self._table.only_row(self._table.parts.part(number), index - self._table.starts[number], index)

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row in order. Bad is one with a text that is not UTF-8, say; where more is damaged, a whole part is."""
        for index, row in self._table.rows_from(0):
            if not isinstance(row, DataError):
                yield NumberedRow(index, row)
            elif on_bad_row is None:
                raise row
            else:
                on_bad_row(index, row)

    def where(self, index: int) -> str:
        """File, row and row group or record batch."""
        return self._table.where(index)

    def fingerprint_of(self, num_rows: int) -> str:
        """Digest of what the rows say, whatever the file's parts are."""
        return self._digests.digest(num_rows)


class _Table(NamedTuple):
    """Parts, and the first row of each; at the end, the number of all rows."""

    parts: TableParts
    starts: Sequence[int]

    def part_of(self, index: int) -> int:
        return bisect.bisect_right(self.starts, index) - 1

    def where(self, index: int) -> str:
        return f"{self.parts.path}: row {index} ({self.parts.kind} {self.part_of(index)})"

    def rows_from(self, first: int) -> Iterator[tuple[int, Row | DataError]]:
        """Numbers of the rows from `first` on, and each row or what is wrong with it."""
        for number in range(self.part_of(first), len(self.starts) - 1):
            index = self.starts[number]
            for batch in self.parts.batches(number):
                num_before = min(max(0, first - index), batch.num_rows)
                if num_before < batch.num_rows:
                    yield from enumerate(self._rows_of(batch.slice(num_before), index + num_before), index + num_before)
                index += batch.num_rows

    def only_row(self, rows: Any, place: int, index: int) -> Row:
        """The one at `place` of a table or record batch.

        Raises:
            DataError: if Python cannot hold it.
        """
        try:
            (row,) = rows.slice(place, 1).to_pylist()
        except (ValueError, OverflowError) as error:  # not UTF-8, a time that there is not
            raise DataError(f"{self.where(index)}: cannot be read: {error}") from error
        return row

    def _rows_of(self, batch: Any, first: int) -> Iterator[Row | DataError]:
        rows: list[Row] | None = None
        with contextlib.suppress(ValueError, OverflowError):  # one of the rows is bad
            rows = batch.to_pylist()
        if rows is not None:
            yield from rows
            return
        for place in range(batch.num_rows):
            try:
                row = self.only_row(batch, place, first + place)
            except DataError as error:
                yield error
            else:
                yield row
