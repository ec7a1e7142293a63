"""JSON lines, read by position through an index of byte offsets."""

import hashlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rl_data.errors import DataError
from rl_data.json import JsonValue

_CHUNK_BYTES = 1 << 24


class JsonlFile:
    """Rows of a .jsonl file, each read from the disk when it is asked for.

    Opening reads the file once, for the offsets (16 bytes a row are held) and the fingerprint. Blank lines are no rows.
    Reading is safe from several threads.

    Raises:
        DataError: if the file is missing or has no row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        self._closer = weakref.finalize(self, os.close, self._descriptor)
        self._starts_N, self._stops_N, self.fingerprint = _scan(self.path)
        if len(self._starts_N) == 0:
            raise DataError(f"{self.path}: expected at least one row, found an empty file")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._starts_N)

    def row(self, index: int) -> dict[str, JsonValue]:
        """The row at `index`.

        Raises:
            DataError: if it is not a JSON object.
        """
        start, stop = int(self._starts_N[index]), int(self._stops_N[index])
        return self._decode(os.pread(self._descriptor, stop - start, start), index)

    def rows(self) -> Iterator[dict[str, JsonValue]]:
        """Every row in the order of the file, in large reads.

        Raises:
            DataError: at the first row that is not a JSON object.
        """
        with self.path.open("rb", buffering=_CHUNK_BYTES) as file:
            index = 0
            for line in file:
                if not line.isspace():
                    yield self._decode(line, index)
                    index += 1

    def where(self, index: int) -> str:
        """ "FILE:LINE" of a row, lines counted from 1. Reads the file up to there: meant for messages."""
        remaining, num_lines = int(self._starts_N[index]), 1
        with self.path.open("rb") as file:
            while remaining:
                chunk = file.read(min(_CHUNK_BYTES, remaining))
                if not chunk:
                    break
                num_lines += chunk.count(b"\n")
                remaining -= len(chunk)
        return f"{self.path}:{num_lines}"

    def close(self) -> None:
        """Closes the file; rows cannot be read afterwards."""
        self._closer()

    def _decode(self, line: bytes, index: int) -> dict[str, JsonValue]:
        try:
            row: JsonValue = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{self.where(index)}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{self.where(index)}: expected a JSON object, found {type(row).__name__}")
        return row


def _scan(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Where each row begins and ends ([N] bytes, the line end left out), and a digest of the whole file."""
    digest = hashlib.blake2b(digest_size=16)
    newlines: list[NDArray[np.int64]] = []
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            newlines.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n")) + size)
            size += len(chunk)
    ends = np.concatenate([*newlines, np.array([size], dtype=np.int64)])
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])
    has_text = np.ones(len(starts), dtype=np.bool_)
    # A line of a few bytes may be blank; no JSON object is shorter than "{}".
    with path.open("rb") as file:
        for line in np.flatnonzero(ends - starts < 64):
            file.seek(int(starts[line]))
            has_text[line] = bool(file.read(int(ends[line] - starts[line])).strip())
    return starts[has_text], ends[has_text], digest.hexdigest()
