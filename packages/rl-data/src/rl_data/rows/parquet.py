"""Parquet files, read a row group at a time. Needs pyarrow (`pip install rl-data[hf]`)."""

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.rows.index import FileIndex
from rl_data.rows.open_files import PositionedFile
from rl_data.rows.row_file import NumberedRow, OnBadRow, Row, RowFile

_MAX_CACHED_BYTES = 1 << 28
"""Shuffled reading jumps between row groups, and reading one takes long: those used last stay in memory."""


class ParquetFile(RowFile):
    """Rows of a parquet file. Row groups stay in memory, as Arrow tables, up to 256 MiB and one more.

    Raises:
        DataError: if pyarrow is not installed, or the file is damaged, cut off or has no row.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as untyped
        except ImportError as error:
            raise DataError(f"{path}: parquet needs pyarrow: pip install 'rl-data[hf]'") from error
        self.path = path
        self._parquet = cast(Any, untyped)
        try:
            self._file = PositionedFile(path)
            with self._parquet.ParquetFile(path) as opened:
                self._metadata: Any = opened.metadata
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            raise DataError(f"{path}: not a readable parquet file: {error}") from error
        self._group_starts = [0]
        self._group_ends: list[int] = []  # in bytes of the file
        for group in range(int(self._metadata.num_row_groups)):
            metadata = self._metadata.row_group(group)
            self._group_starts.append(self._group_starts[-1] + int(metadata.num_rows))
            self._group_ends.append(_end_of(metadata))
        if self._group_starts[-1] == 0:
            raise DataError(f"{path}: expected at least one row, found none")
        self._index = FileIndex(path, self._file.read, has_lines=False)
        self._tables: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """Number of rows."""
        return self._group_starts[-1]

    def row(self, index: int) -> Row:
        """The row at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        group = bisect.bisect_right(self._group_starts, index) - 1
        rows: list[Row] = self._table(group).slice(index - self._group_starts[group], 1).to_pylist()
        return rows[0]

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row in order. No single row can be bad: where the file is damaged, a whole row group is."""
        index = 0
        for group in range(len(self._group_ends)):
            for batch in self._table(group).to_batches(max_chunksize=1024):
                for row in batch.to_pylist():
                    yield NumberedRow(index, row)
                    index += 1

    def where(self, index: int) -> str:
        """File, row and row group."""
        group = bisect.bisect_right(self._group_starts, index) - 1
        return f"{self.path}: row {index} (row group {group})"

    def fingerprint_of(self, num_rows: int) -> str | None:
        """Digest of the file's bytes up to the end of a row group; None for rows that end within one."""
        group = bisect.bisect_left(self._group_starts, num_rows) - 1
        return self._index.digest(self._group_ends[group]) if self._group_starts[group + 1] == num_rows else None

    def _table(self, group: int) -> Any:
        if group in self._tables:
            self._tables.move_to_end(group)
            return self._tables[group]
        self._file.check_place()
        try:
            with self._parquet.ParquetFile(self.path, metadata=self._metadata) as opened:
                table = opened.read_row_group(group)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: row group {group} is damaged: {error}") from error
        self._tables[group] = table
        while len(self._tables) > 1 and sum(int(kept.nbytes) for kept in self._tables.values()) > _MAX_CACHED_BYTES:
            self._tables.popitem(last=False)
        return table


def _end_of(row_group: Any) -> int:
    """The first byte after a row group's columns, which a writer lays one after the other."""
    columns = [row_group.column(number) for number in range(int(row_group.num_columns))]
    return max(
        int(min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset))
        + int(column.total_compressed_size)
        for column in columns
    )
