"""New files that are written from their start to their end."""

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Buffer
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

_BLOCK_BYTES = 2**24
"""Written at once; a multiple of every disk's own blocks."""
_NUM_BLOCKS = 4
_DIRECT: int = getattr(os, "O_DIRECT", 0)

type _Block = np.ndarray[tuple[int], np.dtype[np.uint8]]


class StreamedFile:
    """A file whose bytes go past the system's cache to the disk, where the file system can do that.

    Who writes a checkpoint waits until it is on the disk. In the cache it would be copied once more, and take the place
    of what others read. Blocks are written in a thread while the next ones are filled.

    It is whole when its `with` ends. What `write` raises may be of a block before.

    Args:
        path: of the file to make; what is there is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"write {path.name}")
        self._free = deque(_new_block() for _ in range(_NUM_BLOCKS))
        self._written: deque[tuple[Future[None], _Block]] = deque()
        """Blocks that the thread has or will get, the first one first."""
        self._num_passed_on = 0
        self._num_filled = 0
        """Of the first free block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._pass_on()
                while self._written:
                    self._take_back()
        finally:
            self._thread.shutdown(cancel_futures=True)
            os.close(self._descriptor)

    def tell(self) -> int:
        """Bytes so far."""
        return self._num_passed_on + self._num_filled

    def write(self, buffer: Buffer, /) -> int:
        """Takes all of the bytes, and says how many they are.

        Raises:
            OSError: what the disk refuses.
        """
        source = np.frombuffer(buffer, np.uint8)
        done = 0
        while done < len(source):
            part = source[done : done + _BLOCK_BYTES - self._num_filled]
            self._free[0][self._num_filled : self._num_filled + len(part)] = part  # other threads run meanwhile
            self._num_filled += len(part)
            done += len(part)
            if self._num_filled == _BLOCK_BYTES:
                self._pass_on()
        return done

    def flush(self) -> None:
        """Does nothing, though torch.save wants it: blocks are written whole."""

    def _pass_on(self) -> None:
        """Has the thread write what is filled, and waits for another block if none is left."""
        block, start = self._free.popleft(), self._num_passed_on
        self._written.append((self._thread.submit(self._write, block[: self._num_filled], start), block))
        self._num_passed_on, self._num_filled = start + self._num_filled, 0
        if not self._free:
            self._take_back()

    def _take_back(self) -> None:
        """Waits for the first block to be written."""
        writing, block = self._written.popleft()
        self._free.append(block)
        writing.result()

    def _write(self, block: _Block, start: int) -> None:
        if len(block) % mmap.PAGESIZE:
            self._go_through_cache()
        done = 0
        while done < len(block):
            try:
                done += os.pwrite(self._descriptor, block[done:], start + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._go_through_cache():
                    raise

    def _go_through_cache(self) -> bool:
        """Whether that is new."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        return bool(flags & _DIRECT)


def _new_block() -> _Block:
    """A mapping, because it begins at the start of a page, as the disk wants it."""
    return np.frombuffer(mmap.mmap(-1, _BLOCK_BYTES), np.uint8)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | _DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)
