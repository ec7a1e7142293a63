"""What is in a data set, counted in one pass."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import require_key
from rl_data.rows import RowFile, located

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)
_NUM_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStats:
    """Counts over the rows of a data set."""

    num_rows: int
    """Those that are not bad."""
    num_bad_rows: int
    bad_rows: Sequence[str]
    """Where the first ten are, and what is wrong with them."""
    num_duplicates: int
    """Rows that are equal, as JSON, to an earlier one."""
    duplicates: Sequence[str]
    """Where the first ten are."""
    keys: Mapping[str, int]
    """In how many rows each key stands."""
    roles: Mapping[str, int]
    """Messages by role, in whichever schema."""
    messages: Mapping[str, int]
    """Messages in a row: the least, the quantiles, the most."""
    lengths: Sequence[int]
    """[N] characters of content in each row.

    Of messages that is what stands under `content` or `value`, and nothing of their role names; of a row without
    messages every text, at whatever depth.
    """


def data_stats(rows: RowFile, *, max_bad_rows: float = 0.0, input_key: str | None = None) -> DataStats:
    """Reads every row once; about 150 bytes a row are held, for duplicates and lengths.

    Args:
        max_bad_rows: how many rows that are no JSON objects, or lack `input_key`, are let pass.
        input_key: messages and lengths are those under this key alone; None: of the whole row.

    Raises:
        DataError: at a bad row, if that is one too many.
    """
    counts = _Counts(rows)

    def note_bad(index: int, error: DataError) -> None:
        counts.bad_rows.append(str(error))
        if len(counts.bad_rows) > max_bad_rows:
            raise error

    for index, row in rows.rows(note_bad):
        try:
            with located(rows, index):
                content = row if input_key is None else {input_key: require_key(row, input_key)}
        except DataError as error:
            note_bad(index, error)
        else:
            counts.add(index, row, content)
    if not counts.lengths:
        raise DataError(f"none of {len(rows)} rows can be counted; the first: {counts.bad_rows[0]}")
    return DataStats(
        num_rows=len(counts.lengths),
        num_bad_rows=len(counts.bad_rows),
        bad_rows=counts.bad_rows[:_NUM_NAMED],
        num_duplicates=counts.num_duplicates,
        duplicates=counts.duplicates,
        keys=dict(counts.keys),
        roles=dict(counts.roles),
        messages=quantiles(counts.messages),
        lengths=counts.lengths,
    )


class _Counts:
    """What was counted so far."""

    def __init__(self, rows: RowFile) -> None:
        self._rows = rows
        self._seen: set[bytes] = set()
        self._encoder = msgspec.json.Encoder(order="deterministic", enc_hook=str)  # Arrow has dates and decimals too
        self.bad_rows: list[str] = []
        self.num_duplicates = 0
        self.duplicates: list[str] = []
        self.keys: Counter[str] = Counter()
        self.roles: Counter[str] = Counter()
        self.messages: list[int] = []
        self.lengths: list[int] = []

    def add(self, index: int, row: dict[str, JsonValue], content: dict[str, JsonValue]) -> None:
        """Counts a row, of which `content` holds the messages or the texts."""
        digest = hashlib.blake2b(self._encoder.encode(row), digest_size=16).digest()
        if digest in self._seen:
            self.num_duplicates += 1
            if len(self.duplicates) < _NUM_NAMED:
                self.duplicates.append(self._rows.where(index))
        self._seen.add(digest)
        self.keys.update(row.keys())
        messages = [message for value in content.values() for message in _messages(value)]
        self.roles.update(str(message.get("role", message.get("from"))) for message in messages)
        self.messages.append(len(messages))
        texts = [message.get("content", message.get("value")) for message in messages]
        self.lengths.append(sum(_num_chars(text) for text in (texts if messages else content.values())))


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """The least, median, 90th and 99th percentile and the most of some lengths, by name."""
    values = np.quantile(np.array(lengths), _QUANTILES, method="nearest")
    return dict(zip(("min", "p50", "p90", "p99", "max"), (int(value) for value in values), strict=True))


def _messages(value: JsonValue) -> list[dict[str, JsonValue]]:
    """The messages in a value, none if it holds no messages."""
    if not isinstance(value, list):
        return []
    return [message for message in value if isinstance(message, dict) and message.keys() & {"role", "from"}]


def _num_chars(value: JsonValue) -> int:
    """Characters of every text in a value, whatever its depth."""
    waiting: list[JsonValue] = [value]
    num_chars = 0
    while waiting:
        current = waiting.pop()
        if isinstance(current, str):
            num_chars += len(current)
        elif isinstance(current, list):
            waiting += current
        elif isinstance(current, dict):
            waiting += current.values()
    return num_chars
