"""What prompt and conversation sources share: reading batch after batch, counting what is dropped, saving the place."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.order import RowCursor, RowReference
from rl_data.rows import located, open_rows

logger = logging.getLogger(__name__)


class TooLongError(Exception):
    """An item with more tokens than wanted; it is dropped and counted."""

    def __init__(self, num_tokens: int, max_tokens: int) -> None:
        super().__init__(num_tokens, max_tokens)
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens

    def __str__(self) -> str:
        return f"{self.num_tokens} tokens, at most {self.max_tokens} are wanted"


class Source[Item](ABC):
    """Items made from the rows of a file, epoch after epoch, without end.

    Rows are read when they are asked for. Epoch, position and seed are the whole state, so a source that loads the
    state of another one gives the same items that the other one would have given next.

    Raises:
        DataError: if the file is missing or has no row.
    """

    def __init__(self, path: str, *, shuffle: bool, seed: int) -> None:
        self._path = path
        self._rows = open_rows(path)
        self._cursor = RowCursor(self._rows, name=path, shuffle=shuffle, seed=seed)
        self._num_dropped = 0

    @abstractmethod
    def _check(self, row: dict[str, JsonValue]) -> None:
        """Raises DataError, without the row's place, if the row cannot become an item."""

    @abstractmethod
    def _make(self, row: dict[str, JsonValue], reference: RowReference) -> Item:
        """The row as an item; raises DataError, without the row's place, or TooLongError."""

    def __len__(self) -> int:
        """Number of rows of one epoch, those that will be dropped included."""
        return len(self._rows)

    @property
    def epoch(self) -> int:
        """How many times the whole file has been read."""
        return self._cursor.epoch

    @property
    def num_dropped(self) -> int:
        """Items dropped so far because they were too long, over all epochs."""
        return self._num_dropped

    def validate(self) -> None:
        """Reads every row once and checks it, without rendering it.

        Raises:
            DataError: naming the first bad row, the key and what was found.
        """
        for index, row in enumerate(self._rows.rows()):
            with located(self._rows, index):
                self._check(row)

    def next_batch(self, num_items: int) -> list[Item]:
        """The next items; a batch may reach over the end of an epoch, and still every row comes once an epoch.

        Raises:
            DataError: if a row is bad, or every item of a whole epoch is too long.
        """
        items: list[Item] = []
        num_rejected = 0
        while len(items) < num_items:
            item = self._item(self._cursor.advance())
            num_rejected = num_rejected + 1 if item is None else 0
            if item is not None:
                items.append(item)
            elif num_rejected > 2 * (len(self._rows) - 1):  # a good row may be first in one epoch and last in the next
                raise DataError(f"{self._path}: every one of {len(self._rows)} rows is longer than wanted")
        return items

    def state_dict(self) -> dict[str, JsonValue]:
        """Where the source stands, as JSON values."""
        return {**self._cursor.state_dict(), "num_dropped": self._num_dropped}

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where `state` was taken.

        Raises:
            DataError: if the file, its slice, the seed or the shuffling is another one than then.
        """
        self._cursor.load_state_dict(state)
        num_dropped = state.get("num_dropped")
        self._num_dropped = num_dropped if isinstance(num_dropped, int) else 0

    def _item(self, reference: RowReference) -> Item | None:
        """The row as an item; None, counted, if it is too long."""
        row = self._rows.row(reference.row)
        try:
            with located(self._rows, reference.row):
                return self._make(row, reference)
        except TooLongError as error:
            self._num_dropped += 1
            logger.info("dropped row %d: %s", reference.row, error)
            return None
