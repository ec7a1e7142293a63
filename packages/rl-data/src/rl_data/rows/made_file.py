"""What is made from a data file: an index, say, or what it unpacks to.

`cache` keeps it as a file of its own. Here it goes with its last user. As a file without a name takes a descriptor as
long as it lives, small ones share one.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import BinaryIO

from rl_data.errors import DataError

SMALL_BYTES = 1 << 20
"""What is made of data files below this size is made again each time, in a moment; below it, it shares a file."""
_SPOOL_CHUNK_BYTES = 1 << 20

type Read = Callable[[int, int], bytes]
"""Bytes [start, stop) of a file; fewer only at its end. Safe from several threads."""

type Make = Callable[[BinaryIO], Sequence[int]]
"""Writes to a file from where it stands and returns what to note in the header."""


class MadeFile:
    """What was made from a file, and the counts that its maker noted.

    Args:
        read: gives bytes [start, stop) of what was made.
    """

    def __init__(self, read: Read, counts: Sequence[int]) -> None:
        self.read = read
        self.counts = tuple(counts)


def made_for_now(make: Make) -> MadeFile:
    """Made in a file that goes with its last user. Small ones share one, for the sake of descriptors.

    Raises:
        DataError: if there is no place for it; what `make` raises.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            counts = tuple(make(file))
            file.flush()
            if file.tell() < SMALL_BYTES:
                return MadeFile(Spool.of_process().put(file).read, counts)
            stack.pop_all()
            return MadeFile(_OwnFile(file).read, counts)
    except OSError as error:
        what = f"{tempfile.gettempdir()}: what is made of a data file cannot be written there"
        raise DataError(f"{what}: {error.strerror}; TMPDIR names another folder") from error


class _OwnFile:
    """A file without a name, as long as somebody holds this."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __del__(self) -> None:
        self._file.close()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop); fewer only at the end. Safe from several threads."""
        return os.pread(self._file.fileno(), stop - start, start)


class Spool:
    """One file without a name for what is small and made for now: it goes with the last part that is held of it.

    What a process has forked off reads it, and puts its own into another. Nothing takes a lock when a part goes: that
    may happen anywhere, also while a part is being put.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as a part
        self._end = 0

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # it has none where the disk did not take one
            self._file.close()

    @classmethod
    def of_process(cls) -> "Spool":
        """The one of this process of which parts are held, or a new one."""
        global _spool
        with _spool_lock:
            spool = _spool() if _spool is not None else None
            if spool is None or spool._process != os.getpid():
                spool = cls()
                _spool = weakref.ref(spool)
            return spool

    def put(self, made: BinaryIO) -> "SpooledPart":
        """Appends a whole file."""
        with self._lock:
            start = self._end
            made.seek(0)
            self._file.seek(start)
            shutil.copyfileobj(made, self._file, _SPOOL_CHUNK_BYTES)
            self._file.flush()
            self._end = self._file.tell()
            return SpooledPart(self, start, self._end)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of everything. Safe from several threads."""
        return os.pread(self._file.fileno(), stop - start, start)


class SpooledPart:
    """What was put into a spool, as long as somebody holds this."""

    def __init__(self, spool: Spool, start: int, stop: int) -> None:
        self._spool, self._start, self._stop = spool, start, stop

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop); fewer only at the end. Safe from several threads."""
        return self._spool.read(self._start + start, max(self._start + start, min(self._stop, self._start + stop)))


_spool: weakref.ref[Spool] | None = None
_spool_lock = threading.Lock()
