"""Where the rows of a file begin and end, and digests of its blocks: made in one pass, read by position.

Shape legend: N = rows, B = blocks of 4 MiB, L = lines that end in a block.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rl_data.rows.cache import kept_file
from rl_data.rows.made_file import MadeFile, Read

_BLOCK_BYTES = 1 << 22
_DIGEST_BYTES = 16
_SPAN_BYTES = 16
_NEWLINE, _FIRST_BLANK, _LAST_BLANK = ord("\n"), ord("\t"), ord(" ")
BLANKS = bytes(range(_FIRST_BLANK, _LAST_BLANK + 1))
"""A line of these alone is no row. One of zeros, as a machine leaves that went down while it wrote, is a bad row."""


class FileIndex:
    """The index of a file. Nothing of it is held in memory but the file's size and number of rows.

    Args:
        path: the data file, beside which the index is kept.
        read: gives the lines that are indexed: the file's own bytes, or what they decompress to.
    """

    def __init__(self, path: Path, read: Read) -> None:
        self._read = read
        # A later making, of a file that has grown, goes no further than the first. The object itself is not named in
        # `write`: it would hold itself, and its files open, until a garbage collection.
        most: list[int] = []

        def write(out: BinaryIO) -> tuple[int, int, int]:
            return _write(read, out, most=most[0] if most else None)

        self._kept: MadeFile = kept_file(path, "index", write, may_grow=True)
        self.num_rows, self._num_blocks, self.size = self._kept.counts
        most.append(self.size)

    def span(self, row: int) -> tuple[int, int]:
        """First byte of a row, and the one after its last; the line end is left out."""
        span = np.frombuffer(self._kept.read(row * _SPAN_BYTES, (row + 1) * _SPAN_BYTES), dtype=np.int64)
        return int(span[0]), int(span[1])

    def line(self, row: int) -> int:
        """Number of the line that a row is on, from 1. Reads one block of the file."""
        start, _ = self.span(row)
        block = start // _BLOCK_BYTES
        counts_at = self.num_rows * _SPAN_BYTES + self._num_blocks * _DIGEST_BYTES
        (before,) = np.frombuffer(self._kept.read(counts_at + 8 * block, counts_at + 8 * (block + 1)), dtype=np.int64)
        return 1 + int(before) + self._read(block * _BLOCK_BYTES, start).count(b"\n")

    def digest(self, stop: int) -> str:
        """Digest of the first `stop` bytes. Reads a block of the file at most."""
        num_whole = stop // _BLOCK_BYTES
        first = self.num_rows * _SPAN_BYTES
        whole = hashlib.blake2b(self._kept.read(first, first + num_whole * _DIGEST_BYTES), digest_size=_DIGEST_BYTES)
        if stop > num_whole * _BLOCK_BYTES:
            whole.update(_digest_of(self._read(num_whole * _BLOCK_BYTES, stop)))
        return whole.hexdigest()


def _digest_of(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST_BYTES).digest()


def _write(read: Read, out: BinaryIO, *, most: int | None) -> tuple[int, int, int]:
    """Writes N spans ([2] int64), B digests, and for each block the newlines before it (int64); returns N, B, bytes.

    Args:
        most: bytes that are indexed at most; all where it is None.
    """
    lines = _Lines()
    digests: list[bytes] = []
    newlines_before = [0]
    size = 0
    while block := read(size, size + _BLOCK_BYTES if most is None else min(size + _BLOCK_BYTES, most)):
        digests.append(_digest_of(block))
        num_newlines = lines.add(np.frombuffer(block, dtype=np.uint8), out)
        newlines_before.append(newlines_before[-1] + num_newlines)
        size += len(block)
    lines.end(size, out)
    out.write(b"".join(digests))
    out.write(np.array(newlines_before[: len(digests)], dtype=np.int64).tobytes())
    return lines.num_rows, len(digests), size


class _Lines:
    """Finds the lines that hold more than blanks, block after block."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._offset = 0
        self._line_start = 0  # of the line that the last block left unfinished
        self._has_text = False  # whether that line holds more than blanks so far

    def add(self, block: NDArray[np.uint8], out: BinaryIO) -> int:
        """Writes the spans of the lines that end in this block; returns how many newlines it has."""
        ends_L = np.flatnonzero(block == _NEWLINE)
        firsts = np.concatenate([np.zeros(1, dtype=np.int64), ends_L + 1])
        has_rest = bool(firsts[-1] < len(block))
        is_text = (block > _LAST_BLANK) | (block < _FIRST_BLANK)
        has_text = np.logical_or.reduceat(is_text, firsts if has_rest else firsts[:-1])
        has_text[0] |= self._has_text
        starts_L = firsts[:-1] + self._offset
        if len(ends_L):
            starts_L[0] = self._line_start
            self._line_start = int(firsts[-1]) + self._offset
            self._write(starts_L, ends_L + self._offset, has_text[: len(ends_L)], out)
        self._has_text = bool(has_text[-1]) if has_rest else False
        self._offset += len(block)
        return len(ends_L)

    def end(self, size: int, out: BinaryIO) -> None:
        """Writes the span of a last line that has no line end."""
        if self._has_text:
            self._write(np.array([self._line_start]), np.array([size]), np.array([True]), out)

    def _write(
        self, starts_L: NDArray[np.int64], ends_L: NDArray[np.int64], keep_L: NDArray[np.bool_], out: BinaryIO
    ) -> None:
        out.write(np.stack([starts_L[keep_L], ends_L[keep_L]], axis=1).astype(np.int64).tobytes())
        self.num_rows += int(keep_L.sum())
