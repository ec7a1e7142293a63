"""Progress bars of the command line, on standard error where that is a terminal."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
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


@contextmanager
def bytes_bar(what: str, *, is_shown: bool = True) -> Generator[Callable[[int, int], None]]:
    """A bar of bytes with their speed; gives a function that takes the bytes done and all bytes."""
    with _bar(what, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), is_shown=is_shown) as advance:
        yield advance


@contextmanager
def count_bar(what: str) -> Generator[Callable[[int, int], None]]:
    """A bar of things; gives a function that takes how many are done and how many there are."""
    with _bar(what, MofNCompleteColumn(), TimeRemainingColumn()) as advance:
        yield advance


@contextmanager
def _bar(what: str, *columns: ProgressColumn, is_shown: bool = True) -> Generator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    is_disabled = not (is_shown and console.is_terminal)
    with Progress(TextColumn(what), BarColumn(), *columns, console=console, disable=is_disabled) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
