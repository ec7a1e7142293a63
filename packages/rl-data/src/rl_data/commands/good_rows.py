"""Going through rows of which some may be bad."""

import sys
from collections.abc import Callable, Iterator

from rl_data.errors import DataError
from rl_data.rows import RowFile, located
from rl_data.rows.row_file import Row

_NUM_NAMED = 20


class GoodRows[Item]:
    """What is made of each row. Bad ones are counted, and the first twenty named on standard error.

    Args:
        make: makes something of a row; raises DataError, without the row's place, for a bad one.
        max_bad_rows: how many are let pass.
    """

    def __init__(self, rows: RowFile, make: Callable[[Row], Item], *, max_bad_rows: float) -> None:
        self._rows = rows
        self._make = make
        self._max_bad_rows = max_bad_rows
        self.num_bad = 0

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Numbers of good rows, and what was made of them.

        Raises:
            DataError: at a bad row that is one too many.
        """
        for number, row in self._rows.rows(self._note):
            try:
                with located(self._rows, number):
                    item = self._make(row)
            except DataError as error:
                self._note(number, error)
            else:
                yield number, item

    def _note(self, number: int, error: DataError) -> None:
        self.num_bad += 1
        if self.num_bad > self._max_bad_rows:
            if self.num_bad == 1:
                raise error
            raise DataError(f"{self.num_bad} of {len(self._rows)} rows are bad, more than let pass; the last: {error}")
        if self.num_bad <= _NUM_NAMED:
            sys.stderr.write(f"skipped: {error}\n")
