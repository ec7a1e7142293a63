"""Files that are read by position, of which only so many are open at a time as the system's limit bears."""

import hashlib
import itertools
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rl_data.errors import DataError

_MOST_OPEN, _FEWEST_OPEN = 1024, 4
_SHARE = 4
"""Of the descriptors that a process may have, one in so many is used here: engines and libraries need the others."""
_NUM_SAMPLES, _SAMPLE_BYTES = 8, 4096


class PositionedFile:
    """A file whose bytes are read by position. It may be closed between two reads, and is opened again then.

    Safe from several threads.

    Args:
        path: the file.
        is_same: tells of a descriptor, when the file is opened again, whether it is still the file that it was; by
            default one whose size and times are the same, or one of the same inode, or of the same size and time of
            change, where samples of what it held first are the same. So it may grow at its end.

    Raises:
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path, is_same: Callable[[int], bool] | None = None) -> None:
        self.path = path
        self._number = next(_numbers)
        self._descriptor: _Descriptor | None = _Descriptor(path)
        self._identity = _identity_of(self._descriptor.number)
        self._is_same = is_same or self._has_same_identity
        self._samples = b"" if is_same else _samples_of(self._descriptor.number, self._identity.num_bytes)
        _note_use(self._number, self)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop); fewer only at the end.

        Raises:
            DataError: if another file has taken its place since.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open_again()
        else:
            _note_use(self._number, self)
        return os.pread(descriptor.number, stop - start, start)

    def check_place(self) -> None:
        """Raises DataError if another file has taken its place since, for those who open it themselves."""
        self._open_again()

    def close(self) -> None:
        """Leaves the descriptor to others, once nobody reads from it; the next read opens the file again."""
        self._descriptor = None

    def _open_again(self) -> "_Descriptor":
        try:
            descriptor = _Descriptor(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more: {error.strerror}") from error
        if not self._is_same(descriptor.number):
            raise DataError(f"{self.path}: another file took its place while it was being read")
        self._descriptor = descriptor
        _note_use(self._number, self)
        return descriptor

    def _has_same_identity(self, descriptor: int) -> bool:
        now, first = _identity_of(descriptor), self._identity
        # Some network file systems number a file anew each time that it is looked up.
        if now[2:] == first[2:]:
            return True
        # An inode alone says little: a file that takes the place of one that was removed often gets the number of that.
        if now[:2] != first[:2] and (now.num_bytes, now.modified_ns) != (first.num_bytes, first.modified_ns):
            return False
        return now.num_bytes >= first.num_bytes and _samples_of(descriptor, first.num_bytes) == self._samples


class _Identity(NamedTuple):
    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int
    """Of content, name or rights; nobody can set it, unlike the time before."""


def _identity_of(descriptor: int) -> _Identity:
    status = os.fstat(descriptor)
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _samples_of(descriptor: int, num_bytes: int) -> bytes:
    """Digest of pieces from everywhere in the first `num_bytes`."""
    digest = hashlib.blake2b(digest_size=16)
    for number in range(_NUM_SAMPLES):
        start = max(0, num_bytes - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1)
        digest.update(os.pread(descriptor, min(_SAMPLE_BYTES, num_bytes - start), start))
    return digest.digest()


class _Descriptor:
    """Is closed when the last who reads from it lets go of it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):  # it has none where the file could not be opened
            os.close(self.number)


_numbers = itertools.count()
_lock = threading.Lock()
_used: OrderedDict[int, weakref.ref[PositionedFile]] = OrderedDict()
"""Files that are open, by number, those used last at the end. One that nobody holds any more has closed itself."""


def _note_use(number: int, file: PositionedFile) -> None:
    """Puts a file that is open behind those that were used before, and closes what is one too many."""
    with _lock:
        if number in _used:
            _used.move_to_end(number)
            return
        _used[number] = weakref.ref(file)
        while len(_used) > _most_open():
            _, oldest = _used.popitem(last=False)
            if (one := oldest()) is not None:
                one.close()


def _most_open() -> int:
    may_have, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if may_have == resource.RLIM_INFINITY:
        return _MOST_OPEN
    return max(_FEWEST_OPEN, min(_MOST_OPEN, may_have // _SHARE))
