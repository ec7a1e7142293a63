"""Locks of files and folders, on disks that have them."""

import errno
import fcntl

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What some shared disks answer: Lustre without its option `flock`, some NFS."""


def lock(descriptor: int, *, waits: bool) -> bool:
    """Takes the lock, which the system lets go of when the descriptor is closed, however a process ends.

    Args:
        descriptor: of an open file or folder.
        waits: whether another process that holds it is waited for.

    Returns:
        Whether the disk has locks. Without, nobody can tell who holds what.

    Raises:
        BlockingIOError: if another process holds it and is not waited for.
        OSError: what the disk refuses besides.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
