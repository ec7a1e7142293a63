"""Going through rows of which some may be bad."""

import argparse
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from rl_data.commands.flags import bad_row_share
from rl_data.errors import DataError
from rl_data.reading import most_bad_rows
from rl_data.rows import RowFile, located
from rl_data.rows.row_file import Row

_NUM_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRowRules:
    """What becomes of bad rows."""

    max_share: float | None
    """Of all rows; None: the first one ends it."""
    list_to: Path | None
    """A file for every one that is skipped, a line of JSON each."""


def add_list_flag(parser: argparse.ArgumentParser) -> None:
    """Where bad rows are listed, for commands that go through `GoodRows`."""
    parser.add_argument(
        "--list-bad-rows",
        type=Path,
        metavar="FILE.jsonl",
        help="with --on-bad-row skip: a file that lists every bad row, as {row, message}; the first "
        f"{_NUM_NAMED} are named, the others counted",
    )


def bad_row_rules(arguments: argparse.Namespace) -> BadRowRules:
    """What the flags say.

    Raises:
        DataError: if one has no effect.
    """
    share = bad_row_share(arguments)
    if arguments.list_bad_rows is not None and share is None:
        raise DataError(f"--list-bad-rows {arguments.list_bad_rows}: it has no effect without --on-bad-row skip")
    return BadRowRules(max_share=share, list_to=arguments.list_bad_rows)


class GoodRows[Item]:
    """What is made of each row. Bad ones are counted and named on standard error: the first twenty, and how many more.

    Args:
        make: makes something of a row; raises DataError, without the row's place, for a bad one.
        rules: what becomes of bad ones.
    """

    def __init__(self, rows: RowFile, make: Callable[[Row], Item], rules: BadRowRules) -> None:
        self._rows = rows
        self._make = make
        self._rules = rules
        self._list: IO[bytes] | None = None
        self.num_bad = 0

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        """Numbers of good rows, and what was made of them.

        Raises:
            DataError: at a bad row that is one too many; if the list of bad rows cannot be written.
        """
        with self._listing():
            for number, row in self._rows.rows(self._note):
                try:
                    with located(self._rows, number):
                        item = self._make(row)
                except DataError as error:
                    self._note(number, error)
                else:
                    yield number, item
        if self._rules.list_to is not None:
            sys.stderr.write(f"{self._rules.list_to}: lists {self.num_bad:,} bad rows\n")
        elif self.num_bad > _NUM_NAMED:
            more = f"{self.num_bad - _NUM_NAMED:,} more bad rows, not named here"
            sys.stderr.write(f"skipped: {more}: --list-bad-rows FILE lists all of them\n")

    @contextmanager
    def _listing(self) -> Generator[None]:
        to = self._rules.list_to
        if to is None:
            yield
            return
        with _writing(to):
            self._list = to.open("wb")
        try:
            yield
        finally:
            opened, self._list = self._list, None
            with _writing(to):
                opened.close()

    def _note(self, number: int, error: DataError) -> None:
        most = self._rules.max_share
        if most is None:
            raise error
        self.num_bad += 1
        if self._list is not None and self._rules.list_to is not None:
            with _writing(self._rules.list_to):
                self._list.write(msgspec.json.encode({"row": number, "message": str(error)}) + b"\n")
        if self.num_bad > most_bad_rows(most, len(self._rows)):
            raise DataError(
                f"{self.num_bad} of {len(self._rows)} rows are bad, more than --max-bad-row-share {most:g} lets pass; "
                f"the last: {error}"
            )
        if self.num_bad <= _NUM_NAMED:
            sys.stderr.write(f"skipped: {error}\n")


@contextmanager
def _writing(to: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"--list-bad-rows {to}: cannot be written: {error.strerror}") from error
