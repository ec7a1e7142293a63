"""Data sets made of others: a slice of one, and several one after the other."""

import bisect
import hashlib
from collections.abc import Iterator, Sequence

from rl_data.errors import DataError
from rl_data.rows.row_file import NumberedRow, OnBadRow, Row, RowFile


class RowSlice(RowFile):
    """Rows [start, stop) of another data set.

    Raises:
        DataError: if no row is left.
    """

    def __init__(self, rows: RowFile, start: int | None, stop: int | None, *, name: str) -> None:
        self._rows = rows
        self._range = range(len(rows))[start:stop]
        if not self._range:
            raise DataError(f"{name}: expected at least one row, but there are {len(rows)} and the slice takes none")

    def __len__(self) -> int:
        """Number of rows in the slice."""
        return len(self._range)

    def row(self, index: int) -> Row:
        """The row at `index`, counted from the slice's start."""
        return self._rows.row(self._range[index])

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row of the slice in order."""
        for index in range(len(self)):
            try:
                row = self.row(index)
            except DataError as error:
                if on_bad_row is None:
                    raise
                on_bad_row(index, error)
            else:
                yield NumberedRow(index, row)

    def where(self, index: int) -> str:
        """The row's place in the whole file."""
        return self._rows.where(self._range[index])

    def fingerprint_of(self, num_rows: int) -> str:
        """That of the whole data set up to the row, with the slice's start."""
        so_far = self._rows.fingerprint_of(self._range.start + num_rows)
        return so_far if self._range.start == 0 else f"{so_far}@[{self._range.start}:]"


class RowChain(RowFile):
    """The rows of several data sets, one after the other."""

    def __init__(self, parts: Sequence[RowFile]) -> None:
        assert parts
        self.parts = tuple(parts)
        self.starts = [0]
        for part in parts:
            self.starts.append(self.starts[-1] + len(part))

    def __len__(self) -> int:
        """Rows of all parts."""
        return self.starts[-1]

    def row(self, index: int) -> Row:
        """The row at `index`, counted through all parts."""
        number = self._part_of(index)
        return self.parts[number].row(index - self.starts[number])

    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row of the first part, then of the second, and so on."""
        for start, part in zip(self.starts, self.parts, strict=False):
            report = None if on_bad_row is None else _counted_from(start, on_bad_row)
            for index, row in part.rows(report):
                yield NumberedRow(start + index, row)

    def where(self, index: int) -> str:
        """The row's place in the file that it comes from."""
        number = self._part_of(index)
        return self.parts[number].where(index - self.starts[number])

    def fingerprint_of(self, num_rows: int) -> str:
        """One part's own where the rows lie in the first; else a digest of those of the parts and their lengths."""
        last = self._part_of(num_rows - 1)
        covered = [*(len(part) for part in self.parts[:last]), num_rows - self.starts[last]]
        prints = [part.fingerprint_of(length) for part, length in zip(self.parts, covered, strict=False)]
        if last == 0:
            return prints[0]
        joined = " ".join(f"{length}:{one}" for length, one in zip(covered, prints, strict=True))
        return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()

    def _part_of(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return bisect.bisect_right(self.starts, index) - 1


def _counted_from(start: int, on_bad_row: OnBadRow) -> OnBadRow:
    return lambda index, error: on_bad_row(start + index, error)
