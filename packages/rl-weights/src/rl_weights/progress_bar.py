"""Progress of the command line, on standard error: a bar where that is a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_EVERY_S = 30.0


type Advance = Callable[[int, int], None]
"""Takes how much is done and how much there is."""


@contextmanager
def bytes_bar(what: str, *, is_shown: bool = True, line_every_s: float = _LINE_EVERY_S) -> Generator[Advance]:
    """Of bytes, with their speed."""

    def line(done: int, total: int, seconds: float) -> str:
        return f"{decimal(done)} of {decimal(total)}, {decimal(int(done / seconds))}/s"

    columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with _progress(what, columns, line if is_shown else None, line_every_s) as advance:
        yield advance


@contextmanager
def count_bar(what: str, *, line_every_s: float = _LINE_EVERY_S) -> Generator[Advance]:
    """Of things."""

    def line(done: int, total: int, seconds: float) -> str:
        return f"{done} of {total}, {seconds:.0f} s"

    with _progress(what, (MofNCompleteColumn(), TimeRemainingColumn()), line, line_every_s) as advance:
        yield advance


@contextmanager
def _progress(
    what: str,
    columns: tuple[ProgressColumn, ...],
    line: Callable[[int, int, float], str] | None,
    line_every_s: float,
) -> Generator[Advance]:
    """Shown nowhere without `line`."""
    console = Console(stderr=True)
    if line is None:
        yield lambda done, total: None
    elif console.is_terminal:
        with Progress(TextColumn(what), BarColumn(), *columns, console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(what, line, line_every_s).advance


class _Lines:
    """Writes a line when the last one, or the beginning, is long enough ago; what takes less time writes none."""

    def __init__(self, what: str, line: Callable[[int, int, float], str], every_s: float) -> None:
        self._what, self._line, self._every_s = what, line, every_s
        self._started = self._latest = time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """See `Advance`."""
        now = time.monotonic()
        if now - self._latest >= self._every_s:
            self._latest = now
            # A clock may stand still between the first two calls.
            sys.stderr.write(f"{self._what}: {self._line(done, total, max(now - self._started, 1e-9))}\n")
            sys.stderr.flush()
