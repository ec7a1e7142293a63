"""Parquet files, read a row group at a time. Needs pyarrow (`pip install rl-data[hf]`)."""

import bisect
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.json import JsonValue

_MAX_CACHED_BYTES = 1 << 30
"""Shuffled reading jumps between row groups, and reading one takes long: those used last stay in memory."""


class ParquetFile:
    """Rows of a parquet file. Row groups stay in memory, as Arrow tables, up to 1 GiB.

    Raises:
        DataError: if pyarrow is not installed, or the file is damaged or has no row.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise DataError(f"{path}: parquet needs pyarrow: pip install 'rl-data[hf]'") from error
        self.path = path
        try:
            # pyarrow carries no types.
            self._file: Any = cast(Any, parquet).ParquetFile(path)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            raise DataError(f"{path}: not a readable parquet file: {error}") from error
        self._group_starts = [0]
        for group in range(int(self._file.num_row_groups)):
            num_rows = int(self._file.metadata.row_group(group).num_rows)
            self._group_starts.append(self._group_starts[-1] + num_rows)
        if self._group_starts[-1] == 0:
            raise DataError(f"{path}: expected at least one row, found none")
        self.fingerprint = _digest(path)
        self._tables: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """Number of rows."""
        return self._group_starts[-1]

    def row(self, index: int) -> dict[str, JsonValue]:
        """The row at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        group = bisect.bisect_right(self._group_starts, index) - 1
        rows: list[dict[str, JsonValue]] = self._table(group).slice(index - self._group_starts[group], 1).to_pylist()
        return rows[0]

    def rows(self) -> Iterator[dict[str, JsonValue]]:
        """Every row in order."""
        for group in range(len(self._group_starts) - 1):
            for batch in self._table(group).to_batches(max_chunksize=1024):
                yield from batch.to_pylist()

    def where(self, index: int) -> str:
        """File, row and row group."""
        group = bisect.bisect_right(self._group_starts, index) - 1
        return f"{self.path}: row {index} (row group {group})"

    def _table(self, group: int) -> Any:
        if group in self._tables:
            self._tables.move_to_end(group)
            return self._tables[group]
        try:
            table = self._file.read_row_group(group)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: row group {group} is damaged: {error}") from error
        self._tables[group] = table
        while len(self._tables) > 1 and sum(int(kept.nbytes) for kept in self._tables.values()) > _MAX_CACHED_BYTES:
            self._tables.popitem(last=False)
        return table


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
