"""An iterator whose next item is made while the last one is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

_END = object()


@contextmanager
def read_ahead[T](items: Iterator[T]) -> Generator[Iterator[T]]:
    """The items in their order, each made in a thread while its reader is at work on the one before.

    At most two items are there at a time. What making an item raises, its reader gets. When the block is left, the item
    that is being made is waited for.
    """
    with ThreadPoolExecutor(1) as thread:
        yield _ahead(items, thread)


def _ahead[T](items: Iterator[T], thread: ThreadPoolExecutor) -> Iterator[T]:
    coming: Future[T | object] = thread.submit(next, items, _END)
    while (item := coming.result()) is not _END:
        coming = thread.submit(next, items, _END)
        yield item  # pyright: ignore[reportReturnType] - _END alone is no T
