"""The order in which rows are read: a pure function of seed, epoch and position, and the cursor that walks it."""

from collections.abc import Mapping
from dataclasses import dataclass

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.rows import RowFile

STATE_VERSION = 1
_NUM_ROUNDS = 6
_MASK64 = (1 << 64) - 1


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


class RowCursor:
    """Walks a data set epoch after epoch. Seed, epoch and position are its whole state."""

    def __init__(self, rows: RowFile, *, name: str, shuffle: bool, seed: int) -> None:
        self._rows = rows
        self._name = name
        self._shuffle = shuffle
        self._seed = seed
        self.epoch = 0
        self.position = 0

    def advance(self) -> RowReference:
        """The next row; after the last one of an epoch comes the first of the next epoch."""
        row = self.position
        if self._shuffle:
            row = shuffled(row, len(self._rows), seed=self._seed, epoch=self.epoch)
        reference = RowReference(self.epoch, row)
        self.position += 1
        if self.position == len(self._rows):
            self.epoch, self.position = self.epoch + 1, 0
        return reference

    def state_dict(self) -> dict[str, JsonValue]:
        """JSON values from which `load_state_dict` goes on at the same row."""
        return {
            "state_version": STATE_VERSION,
            "fingerprint": self._rows.fingerprint,
            "num_rows": len(self._rows),
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
        expected = self.state_dict()
        missing = sorted(set(expected) - set(state))
        if missing:
            raise DataError(f"{self._name}: the saved data position lacks {missing}, it has {sorted(state)}")
        for key in ("state_version", "fingerprint", "num_rows", "shuffle", "seed"):
            if state[key] != expected[key]:
                is_swapped = key in ("fingerprint", "num_rows")
                raise DataError(
                    f"{self._name}: the saved data position has {key} {state[key]!r}, expected {expected[key]!r}: "
                    + ("it was saved while reading other rows" if is_swapped else "it must not change")
                )
        epoch, position = state["epoch"], state["position"]
        if not isinstance(epoch, int) or not isinstance(position, int) or not 0 <= position < len(self._rows):
            raise DataError(f"{self._name}: the saved data position is damaged: epoch {epoch!r}, position {position!r}")
        self.epoch, self.position = epoch, position
