"""Digests of rows by what they say, for files whose bytes change wherever they are written again."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from rl_data.rows.cache import kept_file
from rl_data.rows.made_file import MadeFile
from rl_data.rows.row_file import Row

_CHUNK_ROWS = 1024
_DIGEST_BYTES = 16
_MANY_ROWS = 10_000
"""From so many on digests are kept whatever the size of their file: rows that are alike compress to next to nothing."""
_ENCODER = msgspec.json.Encoder(order="deterministic", enc_hook=str)  # Arrow has types that JSON has not

type RowsFrom = Callable[[int], Iterator[Row | None]]
"""Every row from a position on, in order; None for one that cannot be read."""


class RowDigests:
    """Digests of every 1024 rows of a file, made in one pass and kept, from which those of its first rows are told.

    They do not depend on row groups, record batches, compression or Arrow's types: more rows at the end leave them as
    they are, however the file was written.

    Args:
        path: the data file, beside which they are kept.
        num_rows: that it has, those that cannot be read included.
        rows_from: reads it. It must not hold the object that holds this one, which would keep itself alive.
    """

    def __init__(self, path: Path, num_rows: int, rows_from: RowsFrom) -> None:
        self._rows_from = rows_from
        # What is read is the file as it was when it was opened: its rows are the same again also after it has grown.
        self._kept: MadeFile = kept_file(
            path,
            "index",
            lambda out: _write(rows_from(0), out),
            may_grow=True,
            is_slow_to_make=num_rows >= _MANY_ROWS,
        )
        (self._num_rows,) = self._kept.counts

    def digest(self, num_rows: int) -> str:
        """Digest of the first `num_rows` rows. Reads fewer than 1024 of them."""
        num_whole, num_more = divmod(num_rows, _CHUNK_ROWS)
        if num_rows == self._num_rows and num_more:
            num_whole, num_more = num_whole + 1, 0
        whole = hashlib.blake2b(self._kept.read(0, num_whole * _DIGEST_BYTES), digest_size=_DIGEST_BYTES)
        if num_more:
            whole.update(_digest_of(itertools.islice(self._rows_from(num_whole * _CHUNK_ROWS), num_more)))
        return whole.hexdigest()


def _write(rows: Iterator[Row | None], out: BinaryIO) -> tuple[int]:
    """Writes the digest of every 1024 rows, and of the rest; returns the number of rows."""
    num_rows = 0
    for chunk in itertools.batched(rows, _CHUNK_ROWS):
        out.write(_digest_of(iter(chunk)))
        num_rows += len(chunk)
    return (num_rows,)


def _digest_of(rows: Iterator[Row | None]) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for row in rows:
        if row is not None and None in row.values():
            row = {key: value for key, value in row.items() if value is not None}
        encoded = _ENCODER.encode(row)
        if b"null" in encoded:  # further inside, which takes longer to find
            encoded = _ENCODER.encode(_without_nulls(row))
        digest.update(encoded + b"\n")
    return digest.digest()


def _without_nulls(value: object) -> object:
    """Without the keys whose value is null: a table gives all of its rows a key that only a later one has."""
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return {key: _without_nulls(inner) for key, inner in pairs if inner is not None}
    return [_without_nulls(inner) for inner in cast("list[object]", value)] if isinstance(value, list) else value
