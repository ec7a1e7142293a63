"""JSON lines, plain or compressed, read by position through an index of byte offsets."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import describe
from rl_data.rows.compressed import ENDINGS, unpacked
from rl_data.rows.index import BLANKS, FileIndex
from rl_data.rows.made_file import Read
from rl_data.rows.open_files import PositionedFile
from rl_data.rows.row_file import NumberedRow, OnBadRow, Row, RowFile

_READ_BYTES = 1 << 22
_SHOWN_BYTES = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonlFile(RowFile):
    """Rows of a .jsonl, .jsonl.gz or .jsonl.zst file, each read from the disk when it is asked for.

    The first opening reads the file once, for an index that is kept (`rl_data.rows.cache`); later ones take
    milliseconds. A compressed file is unpacked then. Blank lines are no rows. Memory does not grow with the file.
    Reading is safe from several threads.

    Raises:
        DataError: if the file is missing, damaged or has no row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read = self._open()
        self._index = FileIndex(self.path, self._read)
        if self._index.num_rows == 0:
            raise DataError(f"{self.path}: expected at least one row, found an empty file")

    def __len__(self) -> int:
        """Number of rows."""
        return self._index.num_rows

    def row(self, index: int) -> Row:
        """The row at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        return self._decode(self._read(*self._index.span(index)), index)

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row in the order of the file."""
        index = 0
        for line in self._lines():
            if not line.strip(BLANKS):
                continue
            try:
                row = self._decode(line, index)
            except DataError as error:
                if on_bad_row is None:
                    raise
                on_bad_row(index, error)
            else:
                yield NumberedRow(index, row)
            index += 1

    def where(self, index: int) -> str:
        """ "FILE:LINE" of a row, lines counted from 1."""
        return f"{self.path}:{self._index.line(index)}"

    def fingerprint_of(self, num_rows: int) -> str:
        """Digest of the file up to the end of the row; of what it unpacks to, if it is compressed."""
        return self._index.digest(self._index.span(num_rows - 1)[1])

    def _open(self) -> Read:
        """What gives the bytes of the lines."""
        if self.path.suffix in ENDINGS:
            return unpacked(self.path).read
        try:
            return PositionedFile(self.path).read
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _lines(self) -> Iterator[bytes]:
        """The lines that were indexed, in large reads. What was appended since is not among them."""
        rest = b""
        for start in range(0, self._index.size, _READ_BYTES):
            block = self._read(start, min(start + _READ_BYTES, self._index.size))
            first, *more = block.split(b"\n")
            rest += first
            if more:
                yield rest
                yield from more[:-1]
                rest = more[-1]
        yield rest

    def _decode(self, line: bytes, index: int) -> Row:
        try:
            row: JsonValue = msgspec.json.decode(line.removeprefix(_BYTE_ORDER_MARK) if index == 0 else line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # nested too deeply
            found = describe(line[:_SHOWN_BYTES].decode(errors="replace"))
            raise DataError(f"{self.where(index)}: not valid JSON: {error}: found {found}") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: expected a JSON object, found {describe(row)}")
        return row
