"""What every data set of rows promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rl_data.errors import DataError
from rl_data.json import JsonValue

type Row = dict[str, JsonValue]
type OnBadRow = Callable[[int, DataError], None]
"""Is told the index of a row that is no JSON object, and the error."""


class NumberedRow(NamedTuple):
    """A row, and which it is, counted from 0."""

    number: int
    row: Row


class RowFile(ABC):
    """Rows by position. Rows are read when they are asked for, and never change."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows, at least 1."""

    @abstractmethod
    def row(self, index: int) -> Row:
        """The row at `index`, from 0.

        Raises:
            DataError: if it is no JSON object, or its part of the file is damaged; the message begins with its place.
        """

    @abstractmethod
    def rows(self, on_bad_row: OnBadRow | None = None) -> Iterator[NumberedRow]:
        """Every row in order, in large reads.

        Args:
            on_bad_row: is told of rows that are no JSON objects, which are left out then.

        Raises:
            DataError: at the first row that is no JSON object, without `on_bad_row`; where the file is damaged, always.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """How messages name a row: its file, and its line or its row and row group."""

    @abstractmethod
    def fingerprint_of(self, num_rows: int) -> str:
        """Digest of the first `num_rows` rows, equal for equal files whatever their names.

        A data set that grows at its end keeps the fingerprint of the rows that it had.
        """

    @property
    def fingerprint(self) -> str:
        """Digest of all rows."""
        return self.fingerprint_of(len(self))


@contextmanager
def located(rows: RowFile, index: int) -> Generator[None]:
    """Puts the row's place before the message of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{rows.where(index)}: {error}") from error
