"""Arrow files (Feather, and what `datasets` keeps), mapped into memory. Needs pyarrow (`pip install rl-data[hf]`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.rows.arrow_messages import BatchMessage, batch_messages, is_file_format
from rl_data.rows.table import BATCH_ROWS, PartCache, TableFile


class ArrowFile(TableFile):
    """Rows of an Arrow file, in the file or the stream format.

    The system reads and forgets its pages as it needs to. Of a compressed file, as Feather files are, record batches
    are unpacked when a row of them is wanted, and stay in memory up to 256 MiB and one more.

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
        self.path = path
        self._pyarrow = cast(Any, untyped)
        self._cache = PartCache()
        self._mapped: list[Any] = []
        try:
            with self._pyarrow.memory_map(str(path)) as source:  # which stays mapped without its descriptor
                self._content: Any = source.read_buffer()
            self._messages = [message for message in batch_messages(self._content) if message.num_rows]
            if not any(message.is_compressed for message in self._messages):
                self._mapped = [batch for batch in self._read_all().to_batches() if batch.num_rows]
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            raise DataError(f"{path}: not a readable Arrow file: {error}") from error
        self.num_rows = [int(part.num_rows) for part in self._mapped or self._messages]

    def part(self, number: int) -> Any:
        """A record batch."""
        return self._mapped[number] if self._mapped else self._cache.part(number, self._unpacked)

    def batches(self, number: int) -> Iterator[Any]:
        """Pieces of a record batch."""
        batch = self._mapped[number] if self._mapped else self._unpacked(number)
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)

    def _read_all(self) -> Any:
        ipc = self._pyarrow.ipc
        return (ipc.open_file if is_file_format(self._content) else ipc.open_stream)(self._content).read_all()

    def _unpacked(self, number: int) -> Any:
        """By a stream of its own: the schema, the dictionaries before the batch, and the batch."""
        message: BatchMessage = self._messages[number]
        stream = b"".join(self._content.slice(start, stop - start).to_pybytes() for start, stop in message.ranges)
        try:
            return self._pyarrow.ipc.open_stream(stream).read_next_batch()
        except (OSError, ValueError, StopIteration) as error:
            raise DataError(f"{self.path}: record batch {number} is damaged: {error}") from error
