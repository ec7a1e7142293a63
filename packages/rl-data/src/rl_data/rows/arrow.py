"""Arrow files (Feather, and what `datasets` keeps), mapped into memory. Needs pyarrow (`pip install rl-data[hf]`)."""

import bisect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.rows.index import FileIndex
from rl_data.rows.open_files import PositionedFile
from rl_data.rows.row_file import NumberedRow, OnBadRow, Row, RowFile

_MAGIC = b"ARROW1"
"""First bytes of the file format; the stream format has none."""


class ArrowFile(RowFile):
    """Rows of an Arrow file, in the file or the stream format. The system reads and forgets its pages as it needs to.

    Raises:
        DataError: if pyarrow is not installed, or the file is damaged, cut off or has no row.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as untyped
        except ImportError as error:
            raise DataError(f"{path}: Arrow files need pyarrow: pip install 'rl-data[hf]'") from error
        pyarrow = cast(Any, untyped)
        self.path = path
        try:
            file = PositionedFile(path)
            with pyarrow.memory_map(str(path)) as source:  # which stays mapped without its descriptor
                if file.read(0, len(_MAGIC)) == _MAGIC:
                    table = pyarrow.ipc.open_file(source).read_all()
                else:
                    table = pyarrow.ipc.open_stream(source).read_all()
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            raise DataError(f"{path}: not a readable Arrow file: {error}") from error
        self._batches: list[Any] = [batch for batch in table.to_batches() if batch.num_rows]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + int(batch.num_rows))
        if self._starts[-1] == 0:
            raise DataError(f"{path}: expected at least one row, found none")
        self._index = FileIndex(path, file.read, has_lines=False)

    def __len__(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    def row(self, index: int) -> Row:
        """The row at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        rows: list[Row] = self._batches[number].slice(index - self._starts[number], 1).to_pylist()
        return rows[0]

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row in order. No single row can be bad."""
        index = 0
        for batch in self._batches:
            for start in range(0, batch.num_rows, 1024):
                for row in batch.slice(start, 1024).to_pylist():
                    yield NumberedRow(index, row)
                    index += 1

    def where(self, index: int) -> str:
        """File, row and record batch."""
        return f"{self.path}: row {index} (record batch {bisect.bisect_right(self._starts, index) - 1})"

    def fingerprint_of(self, num_rows: int) -> str | None:
        """Digest of the whole file; None for a part of its rows."""
        return self._index.digest(self._index.size) if num_rows == len(self) else None
