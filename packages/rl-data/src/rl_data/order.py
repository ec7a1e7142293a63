"""The order in which rows are read: a pure function of seed, epoch and position, and the cursors that walk it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.rows import RowFile

STATE_VERSION = 2
_NUM_ROUNDS = 6
_MASK64 = (1 << 64) - 1
_ROUNDING = 1e-9


def _mix(value: int) -> int:
    """A 64-bit hash: the output function of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def shuffled(position: int, num_rows: int, *, seed: int, epoch: int) -> int:
    """The row at `position` of a shuffled epoch.

    A bijection of [0, num_rows) in constant memory: a Feistel network over the next even power of two, applied
    until the result lies in the range (cycle walking; Black and Rogaway 2002).
    """
    half_bits = max(3, ((num_rows - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    key = _mix(_mix(seed & _MASK64) ^ epoch)
    value = position
    while True:
        left, right = value >> half_bits, value & half_mask
        for number in range(_NUM_ROUNDS):
            left, right = right, left ^ (_mix(key ^ _mix(right << 8 | number)) & half_mask)
        value = left << half_bits | right
        if value < num_rows:
            return value


@dataclass(frozen=True, slots=True)
class RowReference:
    """An occurrence of a row: which row, and in which pass over the data."""

    epoch: int
    row: int


class Cursor(Protocol):
    """A place in an endless order of rows."""

    @property
    def epoch(self) -> int:
        """How many times every row has come."""
        ...

    def advance(self) -> RowReference:
        """The next row."""
        ...

    def state_dict(self) -> dict[str, JsonValue]:
        """JSON values from which `load_state_dict` goes on at the same row."""
        ...

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where `state` was taken.

        Raises:
            DataError: if the state belongs to other rows, another seed or another order, or is no such state.
        """
        ...


class RowPlace(NamedTuple):
    """A place in the order of one data set."""

    epoch: int
    position: int
    num_rows: int
    """Of this epoch."""


class RowCursor:
    """Walks a data set epoch after epoch. Seed, epoch, position and the epoch's number of rows are its whole state.

    Rows that a data set has got at its end since a state was saved come in from the next epoch on: the epoch that was
    begun ends with the rows, in the order, that it began with.

    Args:
        name: of the data set, for messages.
        first_row: what is added to the numbers of rows that are given.
    """

    def __init__(self, rows: RowFile, *, name: str, shuffle: bool, seed: int, first_row: int = 0) -> None:
        self._rows = rows
        self._name = name
        self._shuffle = shuffle
        self._seed = seed
        self._first_row = first_row
        self._fingerprint: str | None = None  # of the rows of this epoch, once it was asked for
        self._num_rows = len(rows)
        self.epoch = 0
        self.position = 0

    def advance(self) -> RowReference:
        """The next row; after the last one of an epoch comes the first of the next epoch."""
        row = self.position
        if self._shuffle:
            row = shuffled(row, self._num_rows, seed=self._seed, epoch=self.epoch)
        reference = RowReference(self.epoch, self._first_row + row)
        self.position += 1
        if self.position == self._num_rows:
            self.epoch, self.position = self.epoch + 1, 0
            if self._num_rows != len(self._rows):
                self._num_rows, self._fingerprint = len(self._rows), None
        return reference

    def state_dict(self) -> dict[str, JsonValue]:
        """JSON values from which `load_state_dict` goes on at the same row."""
        if self._fingerprint is None:
            self._fingerprint = self._rows.fingerprint_of(self._num_rows)
        return {
            "state_version": STATE_VERSION,
            "fingerprint": self._fingerprint,
            "num_rows": self._num_rows,
            "shuffle": self._shuffle,
            "seed": self._seed,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where `state` was taken.

        Raises:
            DataError: if the state belongs to other rows, another seed or another order, or is no such state.
        """
        self.go_to(self.place_in(state))

    def place_in(self, state: Mapping[str, JsonValue]) -> "RowPlace":
        """Where a state was taken; the cursor stays where it is.

        Raises:
            DataError: as `load_state_dict`.
        """
        expected = self.state_dict()
        _check_keys(state, expected, name=self._name, same=("state_version", "shuffle", "seed"))
        num_rows, epoch, position = (_count(state, key, name=self._name) for key in ("num_rows", "epoch", "position"))
        if not 0 <= position < num_rows:
            raise DataError(f"{self._name}: the saved data position is damaged: position {position} of {num_rows} rows")
        self._check_same_rows(state["fingerprint"], num_rows)
        # An epoch that has not begun is one of all rows.
        return RowPlace(epoch, position, num_rows if position else len(self._rows))

    def go_to(self, place: "RowPlace") -> None:
        """Goes on at a place that `place_in` gave."""
        self.epoch, self.position, self._num_rows = place
        self._fingerprint = None

    def _check_same_rows(self, fingerprint: JsonValue, num_rows: int) -> None:
        """Raises unless the first `num_rows` rows are those with the fingerprint."""
        saved = f"{self._name}: the saved data position was saved while reading other rows: it has {num_rows}"
        if num_rows > len(self._rows):
            raise DataError(f"{saved}, now there are {len(self._rows)}")
        found = self._rows.fingerprint_of(num_rows)
        if found != fingerprint:
            raise DataError(f"{saved} with fingerprint {fingerprint}, now these have {found}")


class MixedCursor:
    """Walks several data sets at once: of the first n rows, for every n, each gives its share to within one row.

    Every data set has epochs of its own; one that is small or has a large share begins them more often. Source of the
    order: R. Tijdeman, The chairman assignment problem, 1980.

    Args:
        cursors: one a data set.
        weights: shares, in any unit; positive.
    """

    def __init__(self, cursors: Sequence[RowCursor], weights: Sequence[float], *, name: str) -> None:
        assert len(cursors) == len(weights)
        self._cursors = tuple(cursors)
        self._weights = tuple(float(weight) for weight in weights)
        self._shares = [weight / sum(self._weights) for weight in self._weights]
        self._slack = 1 / (2 * len(cursors) - 2) if len(cursors) > 1 else 0.0
        self._name = name
        self._num_given = [0] * len(cursors)

    @property
    def epoch(self) -> int:
        """How many times every row of every data set has come."""
        return min(cursor.epoch for cursor in self._cursors)

    def advance(self) -> RowReference:
        """The next row: of the data sets that are behind their share, of the one that must not wait longest."""
        total = sum(self._num_given) + 1
        behind = [share * total - given for share, given in zip(self._shares, self._num_given, strict=True)]
        due = [number for number, rows in enumerate(behind) if rows >= self._slack - _ROUNDING]
        number = min(due, key=lambda number: (1 - self._slack - behind[number]) / self._shares[number])
        self._num_given[number] += 1
        return self._cursors[number].advance()

    def state_dict(self) -> dict[str, JsonValue]:
        """JSON values from which `load_state_dict` goes on at the same row."""
        return {
            "state_version": STATE_VERSION,
            "weights": list(self._weights),
            "num_given": list(self._num_given),
            "data_sets": [cursor.state_dict() for cursor in self._cursors],
        }

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where `state` was taken.

        Raises:
            DataError: if the state belongs to other data sets, weights, seeds or orders, or is no such state.
        """
        _check_keys(state, self.state_dict(), name=self._name, same=("state_version", "weights"))
        states = state["data_sets"]
        num_given = _counts(state, "num_given", len(self._cursors), name=self._name)
        if not isinstance(states, list) or len(states) != len(self._cursors):
            raise DataError(f"{self._name}: the saved data position is damaged: data_sets {states!r}")
        places: list[RowPlace] = []
        for cursor, one in zip(self._cursors, states, strict=True):
            if not isinstance(one, dict):
                raise DataError(f"{self._name}: the saved data position is damaged: found {one!r}")
            places.append(cursor.place_in(one))
        for cursor, place in zip(self._cursors, places, strict=True):  # none moves unless all can
            cursor.go_to(place)
        self._num_given = num_given


def _check_keys(
    state: Mapping[str, JsonValue], expected: Mapping[str, JsonValue], *, name: str, same: Sequence[str]
) -> None:
    """Raises unless the state has the keys of the expected one, and equal values under the keys `same`."""
    if missing := sorted(set(expected) - set(state)):
        raise DataError(f"{name}: the saved data position lacks {missing}, it has {sorted(state)}")
    for key in same:
        if state[key] != expected[key]:
            found = f"has {key} {state[key]!r}, expected {expected[key]!r}"
            raise DataError(f"{name}: the saved data position {found}: it must not change")


def _count(state: Mapping[str, JsonValue], key: str, *, name: str) -> int:
    value = state[key]
    if not isinstance(value, int) or value < 0:
        raise DataError(f"{name}: the saved data position is damaged: {key} {value!r}")
    return value


def _counts(state: Mapping[str, JsonValue], key: str, length: int, *, name: str) -> list[int]:
    value = state[key]
    counts = [one for one in value if isinstance(one, int) and one >= 0] if isinstance(value, list) else []
    if not isinstance(value, list) or not len(counts) == len(value) == length:
        raise DataError(f"{name}: the saved data position is damaged: {key} {value!r}")
    return counts
