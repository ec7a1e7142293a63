"""Parquet files, read a row group at a time. Needs pyarrow (`pip install rl-data[hf]`)."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.rows.open_files import PositionedFile
from rl_data.rows.table import BATCH_ROWS, PartCache, TableFile


class ParquetFile(TableFile):
    """Rows of a parquet file. Row groups stay in memory, as Arrow tables, up to 256 MiB and one more.

    Raises:
        DataError: if pyarrow is not installed, or the file is damaged, cut off or has no row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(_RowGroups(path))


class _RowGroups:
    kind = "row group"

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
        groups = range(int(self._metadata.num_row_groups))
        self.num_rows = [int(self._metadata.row_group(group).num_rows) for group in groups]
        self._cache = PartCache()

    def part(self, number: int) -> Any:
        """A row group."""
        return self._cache.part(number, self._read)

    def _read(self, number: int) -> Any:
        with self._opened(number) as opened:
            return opened.read_row_group(number)

    def batches(self, number: int) -> Iterator[Any]:
        """Pieces of a row group, as they are decoded."""
        with self._opened(number) as opened:
            yield from opened.iter_batches(batch_size=BATCH_ROWS, row_groups=[number])

    @contextmanager
    def _opened(self, group: int) -> Generator[Any]:
        self._file.check_place()
        try:
            with self._parquet.ParquetFile(
                self.path, metadata=self._metadata, page_checksum_verification=True
            ) as opened:
                yield opened
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: row group {group} is damaged: {error}") from error
