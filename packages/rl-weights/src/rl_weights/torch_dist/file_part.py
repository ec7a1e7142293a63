"""A part of a file, as if it were a file."""

import io
from collections.abc import Buffer
from typing import override


class FilePart(io.RawIOBase):
    """Reads a part of an open file without ever reading beyond it.

    Args:
        file: open for reading, without a buffer of its own.
        start: where the part starts.
        length: of the part.
    """

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length = file, start, length
        self._position = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise ValueError(f"expected a position of at least 0, got {origin + offset}")
        self._position = origin + offset
        return self._position

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        wanted = memoryview(buffer)[: max(self._length - self._position, 0)]
        self._file.seek(self._start + self._position)
        count = self._file.readinto(wanted)
        self._position += count
        return count
