"""What prompt and conversation sources share: batch after batch, counts of what is left out, and the place saved."""

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import cast

from rl_data.ahead import Ahead
from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.order import RowReference
from rl_data.reading import ReadingConfig, cursor_of, most_bad_rows, open_data_sets
from rl_data.rows import located
from rl_data.rows.row_file import NumberedRow, Row
from rl_data.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_BAD_ROWS = "bad_rows"
"""In a state: the numbers of the bad rows, of which at most --max-bad-row-share are let pass, also after a resume."""

_MAX_NOTES = 100_000
"""Notes that nobody takes are forgotten, the oldest first, and counted."""


class TooLongError(Exception):
    """An item with more tokens than wanted; it is dropped and counted."""

    def __init__(self, num_tokens: int, max_tokens: int, *, why_not_cut: str = "") -> None:
        super().__init__(num_tokens, max_tokens)
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens
        self.why_not_cut = why_not_cut

    def __str__(self) -> str:
        wanted = f"{self.num_tokens} tokens, at most {self.max_tokens} are wanted"
        return f"{wanted}, {self.why_not_cut}" if self.why_not_cut else wanted


class RowFate(StrEnum):
    """What became of a row that did not become an item as it is."""

    DROPPED = "dropped"
    """Too long, and left out."""
    CUT = "cut"
    """Too long, and made shorter."""
    BAD = "bad"
    """Not what was expected, and skipped."""


@dataclass(frozen=True, slots=True)
class RowNote:
    """A row that was left out or cut."""

    fate: RowFate
    row: int
    message: str
    """File and line, or row and row group, and what was found."""


@dataclass(frozen=True, slots=True)
class Cut[Item]:
    """An item that was made shorter to fit."""

    item: Item
    num_tokens: int
    """Before it was cut."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Made[Item]:
    """What a row became."""

    item: Item | None
    note: RowNote | None = None


class Source[Item](ABC):
    """Items made from the rows of data sets, epoch after epoch, without end.

    Rows are read when they are asked for or, in worker processes, a batch or two before. Epoch, position and seed are
    the whole state, so a source that loads the state of another one gives the same items that the other one would have
    given next, whatever the number of workers.

    A class of sources is made from a configuration and a tokenizer alone; worker processes make theirs so.

    Raises:
        DataError: if a data set is missing or has no row.
    """

    def __init__(self, config: ReadingConfig, tokenizer: Tokenizer) -> None:
        self._reading = config
        self._rows = open_data_sets(config)
        self._cursor = cursor_of(config, self._rows)
        self._counts: Counter[RowFate] = Counter()
        self._notes: deque[RowNote] = deque(maxlen=_MAX_NOTES)
        self._num_unlisted = 0
        self._bad_rows: set[int] = set()
        self._left_out: dict[int, RowNote] = {}
        self._remake = _Remake(type(self), config, tokenizer)
        self._ahead: Ahead[RowReference, Made[Item]] | None = None
        self._ahead_cursor = self._cursor

    @abstractmethod
    def _check(self, row: dict[str, JsonValue]) -> None:
        """Raises DataError, without the row's place, if the row cannot become an item."""

    @abstractmethod
    def _make(self, row: dict[str, JsonValue], reference: RowReference) -> Item | Cut[Item]:
        """The row as an item; raises DataError, without the row's place, or TooLongError."""

    def __len__(self) -> int:
        """Number of rows of one epoch, those that will be left out included."""
        return len(self._rows)

    def where(self, row: int) -> str:
        """How messages name a row: file and line, or row and row group."""
        return self._rows.where(row)

    @property
    def epoch(self) -> int:
        """How many times every row has been read."""
        return self._cursor.epoch

    @property
    def num_dropped(self) -> int:
        """Items dropped so far because they were too long, over all epochs."""
        return self._counts[RowFate.DROPPED]

    @property
    def num_cut(self) -> int:
        """Items cut so far because they were too long, over all epochs."""
        return self._counts[RowFate.CUT]

    @property
    def num_bad(self) -> int:
        """Bad rows skipped so far, over all epochs."""
        return self._counts[RowFate.BAD]

    @property
    def num_unlisted(self) -> int:
        """Rows that were left out or cut and that `take_notes` does not give: more than 100,000 waited to be taken.

        Each row is logged, too, when it is left out or cut, at the level INFO.
        """
        return self._num_unlisted

    def take_notes(self) -> list[RowNote]:
        """Which rows were left out or cut since this was asked before; the last 100,000 at most, see `num_unlisted`."""
        notes = list(self._notes)
        self._notes.clear()
        return notes

    def validate(self) -> list[RowNote]:
        """Reads every row once and checks it, without rendering it; returns the bad rows, if those are to be skipped.

        They are left out from then on, also those that are bad by what is checked here alone, such as a label.

        Raises:
            DataError: naming the first bad row, the key and what was found; or that too many are bad.
        """
        notes: list[RowNote] = []

        def note(row: int, error: DataError) -> None:
            if self._reading.on_bad_row == "stop":
                raise error
            notes.append(RowNote(RowFate.BAD, row, str(error)))
            self._check_share(notes[-1])

        for index, row in self._rows.rows(note):
            try:
                with located(self._rows, index):
                    self._check(row)
            except DataError as error:
                note(index, error)
        self.leave_out(notes)
        return notes

    def leave_out(self, bad_rows: Sequence[RowNote]) -> None:
        """Takes rows for bad that another source of the same data sets found to be."""
        self._left_out |= {note.row: note for note in bad_rows}

    def next_batch(self, num_items: int) -> list[Item]:
        """The next items; a batch may reach over the end of an epoch, and still every row comes once an epoch.

        Raises:
            DataError: if a row is bad and bad rows are not skipped, or too many are; if no item is left of an epoch.
            RLDataError: if a worker process has died, or hangs over a row for longer than `data_timeout_s`; from then
                on, until `close` or `load_state_dict`, at every call.
        """
        items: list[Item] = []
        num_rejected = 0
        while len(items) < num_items:
            made = self._next(num_items)
            item = self._taken(made)
            if item is not None:
                items.append(item)
                num_rejected = 0
                continue
            num_rejected += 1
            if num_rejected > 2 * (len(self) - 1):  # a good row may be first in one epoch and last in the next
                reason = "longer than wanted" + (" or bad" if self._bad_rows else "")
                last = f"; the last: {made.note.message}" if made.note is not None else ""
                raise DataError(f"{self._reading.name}: every one of {len(self)} rows is {reason}{last}")
        return items

    def made(self, reference: RowReference) -> Made[Item]:
        """What a row becomes, whatever is wrong with it; the place stays as it is."""
        if reference.row in self._left_out:
            return Made(None, self._left_out[reference.row])
        try:
            row = self._rows.row(reference.row)
            with located(self._rows, reference.row):
                item = self._make(row, reference)
        except DataError as error:
            return Made(None, RowNote(RowFate.BAD, reference.row, str(error)))
        except TooLongError as error:
            return Made(None, self._note(RowFate.DROPPED, reference.row, str(error)))
        if not isinstance(item, Cut):
            return Made(item)
        cut = cast("Cut[Item]", item)
        change = f"{cut.num_tokens} tokens, cut to at most {cut.max_tokens}"
        return Made(cut.item, self._note(RowFate.CUT, reference.row, change))

    def state_dict(self) -> dict[str, JsonValue]:
        """Where the source stands, as JSON values."""
        counts = {f"num_{fate}": self._counts[fate] for fate in RowFate}
        return {**self._cursor.state_dict(), **counts, _BAD_ROWS: [*sorted(self._bad_rows)]}

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where `state` was taken.

        Raises:
            DataError: if the rows, the seed or the shuffling are others than then, or the state is damaged. Rows that
                were added at the end are no other rows: they come in with the next epoch.
        """
        # Those that this source found are as bad as those that were known then, which a state of old does not have.
        bad_rows = self._bad_rows.union(_row_numbers(state.get(_BAD_ROWS, []), name=self._reading.name))
        self._cursor.load_state_dict(state)
        self._bad_rows = bad_rows
        for fate in RowFate:
            count = state.get(f"num_{fate}")
            self._counts[fate] = count if isinstance(count, int) else 0
        if self._ahead is not None and self._ahead.forget():
            self._ahead_cursor.load_state_dict(self._cursor.state_dict())
        else:
            self.close()

    def close(self) -> None:
        """Ends the worker processes; the next batch starts others."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _first_row(self, is_good: Callable[[Row], bool]) -> NumberedRow:
        """The first row or, where bad ones are skipped, the first that is a good JSON object, or else any.

        Raises:
            DataError: if there is none.
        """
        if self._reading.on_bad_row == "stop":
            return NumberedRow(0, self._rows.row(0))
        first: NumberedRow | None = None
        errors: list[DataError] = []
        for numbered in self._rows.rows(lambda row, error: errors.append(error) if not errors else None):
            if is_good(numbered.row):
                return numbered
            first = first or numbered
        if first is None:
            raise DataError(f"{self._reading.name}: none of {len(self)} rows is a JSON object; the first: {errors[0]}")
        return first

    def _next(self, num_items: int) -> Made[Item]:
        """What the next row becomes. With workers, the rows of this batch and the next are on their way."""
        num_workers = self._reading.num_workers_for(len(self))
        if num_workers == 0:
            return self.made(self._cursor.advance())
        if self._ahead is None:
            self._ahead = Ahead(
                self._remake,
                num_workers,
                deadline_s=self._reading.data_timeout_s,
                describe=lambda reference: self._rows.where(reference.row),
            )
            self._ahead_cursor = cursor_of(self._reading, self._rows)
            self._ahead_cursor.load_state_dict(self._cursor.state_dict())
        while self._ahead.num_waiting <= num_items:
            self._ahead.submit([self._ahead_cursor.advance() for _ in range(num_items)])
        made = self._ahead.take()
        note = self._left_out.get(self._cursor.advance().row)
        return made if note is None else Made(None, note)

    def _taken(self, made: Made[Item]) -> Item | None:
        """The item, if there is one, after what there is to note of it was counted and kept.

        Raises:
            DataError: for a bad row that is not to be skipped, or is one too many.
        """
        note = made.note
        if note is None:
            return made.item
        if note.fate is RowFate.BAD:
            if self._reading.on_bad_row == "stop":
                raise DataError(note.message)
            self._check_share(note)
        self._counts[note.fate] += 1
        self._keep(note)
        logger.info("%s: %s", note.fate, note.message)
        return made.item

    def _keep(self, note: RowNote) -> None:
        if len(self._notes) == _MAX_NOTES:
            if self._num_unlisted == 0:
                logger.warning(
                    "%s: more than %d rows were left out or cut since their list was taken; it loses the first ones, "
                    "from %s on; all are counted, and logged at the level INFO",
                    self._reading.name,
                    _MAX_NOTES,
                    self._notes[0].message,
                )
            self._num_unlisted += 1
        self._notes.append(note)

    def _check_share(self, note: RowNote) -> None:
        self._bad_rows.add(note.row)
        most = self._reading.bad_row_share
        if len(self._bad_rows) > most_bad_rows(most, len(self)):
            raise DataError(
                f"{self._reading.name}: {len(self._bad_rows)} of {len(self)} rows are bad, more than "
                f"--max-bad-row-share {most} lets pass; the last: {note.message}"
            )

    def _note(self, fate: RowFate, row: int, change: str) -> RowNote:
        return RowNote(fate, row, f"{self._rows.where(row)}: {change}")


def _row_numbers(value: JsonValue, *, name: str) -> list[int]:
    numbers = [number for number in value if isinstance(number, int)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(numbers) != len(value):
        raise DataError(f"{name}: the saved data position is damaged: {_BAD_ROWS} {value!r}")
    return numbers


@dataclass(frozen=True, slots=True)
class _Remake[Item]:
    """Makes the same source in a worker process, and gives what it makes of rows."""

    kind: type[Source[Item]]
    config: ReadingConfig
    tokenizer: Tokenizer

    def __call__(self) -> Callable[[RowReference], Made[Item]]:
        return self.kind(replace(self.config, num_data_workers=0), self.tokenizer).made
