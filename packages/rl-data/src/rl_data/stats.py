"""What is in a data set, counted in one pass."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from rl_data.json import JsonValue
from rl_data.rows import RowFile

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStats:
    """Counts over the rows of a file."""

    num_rows: int
    num_duplicates: int
    """Rows that are equal, as JSON, to an earlier one."""
    keys: Mapping[str, int]
    """In how many rows each key stands."""
    roles: Mapping[str, int]
    """Messages by role, in whichever schema."""
    chars: Mapping[str, int]
    """Characters of text in a row: the least, the quantiles, the most."""


def data_stats(rows: RowFile) -> DataStats:
    """Reads every row once; 16 bytes a row are held, for the duplicates.

    Raises:
        DataError: at a row that is no JSON object.
    """
    seen: set[bytes] = set()
    num_duplicates = 0
    keys: Counter[str] = Counter()
    roles: Counter[str] = Counter()
    lengths: list[int] = []
    encoder = msgspec.json.Encoder(order="deterministic")
    for _, row in rows.rows():
        digest = hashlib.blake2b(encoder.encode(row), digest_size=16).digest()
        num_duplicates += digest in seen
        seen.add(digest)
        keys.update(row.keys())
        num_chars = 0
        for value in row.values():
            roles.update(_roles(value))
            num_chars += _num_chars(value)
        lengths.append(num_chars)
    return DataStats(
        num_rows=len(lengths),
        num_duplicates=num_duplicates,
        keys=dict(keys),
        roles=dict(roles),
        chars=quantiles(lengths),
    )


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """The least, median, 90th and 99th percentile and the most of some lengths, by name."""
    values = np.quantile(np.array(lengths), _QUANTILES, method="nearest")
    return dict(zip(("min", "p50", "p90", "p99", "max"), (int(value) for value in values), strict=True))


def _roles(value: JsonValue) -> list[str]:
    """Roles of the messages in a value, none if it holds no messages."""
    if not isinstance(value, list):
        return []
    messages = [message for message in value if isinstance(message, dict)]
    return [str(message.get("role", message.get("from"))) for message in messages if message.keys() & {"role", "from"}]


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
