"""Standard output, which may be a file on a full disk."""

import sys

from rl_data.errors import DataError


class OutputError(DataError):
    """What was written to standard output is not, or not all, there; what waits to be written is of no use."""


def write_output(text: str) -> None:
    """Writes to standard output, from where it is passed on at once.

    Raises:
        OutputError: if it cannot be written.
        BrokenPipeError: if its reader is gone.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from error
