"""Arrow files (Feather, and what `datasets` keeps), mapped into memory. Needs pyarrow (`pip install rl-data[hf]`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.rows.table import BATCH_ROWS, TableFile

_MAGIC = b"ARROW1"
"""First bytes of the file format; the stream format has none."""


class ArrowFile(TableFile):
    """Rows of an Arrow file, in the file or the stream format. The system reads and forgets its pages as it needs to.

    Raises:
        DataError: if pyarrow is not installed, or the file is damaged, cut off or has no row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(_RecordBatches(path))


class _RecordBatches:
    kind = "record batch"

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as untyped
        except ImportError as error:
            raise DataError(f"{path}: Arrow files need pyarrow: pip install 'rl-data[hf]'") from error
        pyarrow = cast(Any, untyped)
        self.path = path
        try:
            with path.open("rb") as file:
                is_file_format = file.read(len(_MAGIC)) == _MAGIC
            with pyarrow.memory_map(str(path)) as source:  # which stays mapped without its descriptor
                opened = pyarrow.ipc.open_file(source) if is_file_format else pyarrow.ipc.open_stream(source)
                table = opened.read_all()
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            raise DataError(f"{path}: not a readable Arrow file: {error}") from error
        self._batches: list[Any] = [batch for batch in table.to_batches() if batch.num_rows]
        self.num_rows = [int(batch.num_rows) for batch in self._batches]

    def part(self, number: int) -> Any:
        """A record batch."""
        return self._batches[number]

    def batches(self, number: int) -> Iterator[Any]:
        """Pieces of a record batch."""
        batch = self._batches[number]
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)
