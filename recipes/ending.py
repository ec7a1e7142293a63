"""How a recipe ends: well, by a user's mistake, by Ctrl-C, or by a failure, each with its exit code."""

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

from recipes.arguments.usage import exit_on_usage_error
from recipes.run_folder import CONFIG_FILE, RunFolder

_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_to_its_end[Job](program: str, read: Callable[[], Job], run: Callable[[Job], object]) -> int:
    """The exit code after `run(read())`: 0, 2 for what the user can mend, 130 for Ctrl-C or SIGTERM.

    What the user can mend is found by `read`, before anything is started.

    An interrupt takes effect at once, in the middle of whatever is waited for. Later ones change nothing: the run is
    ending, and every wait on that way has a deadline of seconds. Failures of `run` pass through with their traceback,
    which makes the exit code 1.
    """
    # Python's own handler of SIGINT would not do: asyncio puts one in its place that waits for the end of the step.
    previous = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        with exit_on_usage_error(program):
            job = read()
        run(job)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return _INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0


@contextmanager
def telling_how_to_resume(program: str, folder: RunFolder) -> Generator[None]:
    """Says after an interrupt or a failure what goes on from the last checkpoint."""
    try:
        yield
    except (KeyboardInterrupt, Exception):  # raised again: whatever ended the run, this is what the user needs next
        if folder.has_checkpoint:
            hint = f"goes on from the last checkpoint with: {program} --config {folder.path / CONFIG_FILE} --resume"
        else:
            hint = "ended before its first checkpoint; --save-interval says how often one is written"
        sys.stderr.write(f"\nThe run in {folder.path} {hint}\n")
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt
