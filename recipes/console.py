"""What a recipe shows on the terminal: a progress bar where there is a terminal, and one line a step."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StepConsole:
    """Prints lines of `name value` pairs above a progress bar."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line of plain text."""
        self._console.print(text, markup=False)

    def step(self, title: str, values: Mapping[str, float | str]) -> None:
        """One line for one step, for example `grpo 12  reward 0.41  loss 0.0123  2.1 s`."""
        self.say("  ".join([title, *(f"{name} {_short(value)}" for name, value in values.items())]))

    @contextmanager
    def busy(self, what: str) -> Generator[None]:
        """Shows that something is under way."""
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            self.say(f"{what} ...")
            yield

    def track(self, steps: Iterable[int], *, what: str, total: int, completed: int) -> Iterator[int]:
        """The steps, with a bar below the lines. `completed` of `total` were done before."""
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            task = progress.add_task(what, total=total, completed=completed)
            for step in steps:
                yield step
                progress.advance(task)


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3g}" if abs(value) < 1e-3 and value != 0 else f"{value:.3f}"
