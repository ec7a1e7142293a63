"""The folder of one stream of versions, and those that other writers have left behind."""

import contextlib
import fcntl
import logging
import os
import shutil
import socket
from pathlib import Path

import msgspec

from rl_weights.folder_lock import lock as take_lock

logger = logging.getLogger(__name__)

_PREFIX, _UNFINISHED_PREFIX = "weights-", ".weights-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WRITER_FILE = "writer.json"
"""Is locked as long as the writer lives: the system lets go of a lock however a process ends."""


class _Writer(msgspec.Struct, frozen=True):
    """Who writes a stream."""

    host: str
    process: int
    owner: str | None
    boot: str | None = None
    """Of the host's kernel, where it tells one: machines may have the same name."""

    def is_on_machine_of(self, other: "_Writer") -> bool:
        return (self.host, self.boot) == (other.host, other.boot)


class StreamFolder:
    """A folder that a writer makes for its versions, and that is taken for abandoned once it does not live any more.

    Args:
        parent: where streams lie, perhaps on a disk that several machines share.
        stream: name of this one.
        owner: what is the same for a writer and those that follow it, such as the folder of a run.
    """

    def __init__(self, parent: Path, stream: str, owner: str | None) -> None:
        self.path = parent / f"{_PREFIX}{stream}"
        self._unfinished = parent / f"{_UNFINISHED_PREFIX}{stream}"
        self._writer = _Writer(socket.gethostname(), os.getpid(), owner, _boot_id())
        self._lock: int | None = None

    def make(self) -> None:
        """Makes the folder, unless it is there, and removes what writers left that are gone.

        Raises:
            OSError: if it cannot be made.
        """
        if self._lock is not None:
            return
        with contextlib.ExitStack() as failing:  # so that the next call begins anew
            failing.callback(shutil.rmtree, self._unfinished, ignore_errors=True)
            self._unfinished.mkdir(parents=True, mode=0o700, exist_ok=True)
            lock = os.open(self._unfinished / WRITER_FILE, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            failing.callback(os.close, lock)
            # Before there is content: a file without a lock that says whose it is belongs to nobody alive. Another
            # writer is waited for, which looks whether this one lives.
            take_lock(lock, waits=True)
            with open(lock, "wb", closefd=False) as stream:
                stream.write(msgspec.json.encode(self._writer))
            self._unfinished.rename(self.path)
            self._lock = lock
            failing.pop_all()
        for prefix in (_PREFIX, _UNFINISHED_PREFIX):
            for folder in sorted(self.path.parent.glob(f"{prefix}*")):
                if folder != self.path:
                    self._remove_abandoned(folder)

    def remove(self) -> None:
        """Removes the folder and lets go of it."""
        for folder in (self.path, self._unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_abandoned(self, folder: Path) -> None:
        """Removes a folder if its writer is surely gone.

        On some shared disks a lock holds on its own machine alone: that a writer of another machine is gone is known
        only by its owner, who is at work here.
        """
        try:
            lock = os.open(folder / WRITER_FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # it is no such folder, or gets its writer in this moment
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer = msgspec.json.decode(os.read(lock, 4096), type=_Writer)
        except (OSError, msgspec.DecodeError):  # it lives, or the disk has no locks
            return
        else:
            is_of_owner = writer.owner is not None and writer.owner == self._writer.owner
            if writer.is_on_machine_of(self._writer) or is_of_owner:
                shutil.rmtree(folder, ignore_errors=True)
                outcome = "could not be removed" if folder.exists() else "removed"
                logger.warning(
                    "%s: %s; its writer, process %d on %s, is gone", folder, outcome, writer.process, writer.host
                )
        finally:
            os.close(lock)


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
