"""`--check`: a run that is read and checked as any other, and not started."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from recipes.console import StepConsole
from rl_data import RowNote


class CheckedJob(Protocol):
    """What a recipe read and found to be whole."""

    @property
    def config_text(self) -> str:
        """The resolved configuration."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know before it starts."""
        ...

    @property
    def bad_rows(self) -> Sequence[RowNote]:
        """Rows that would be skipped."""
        ...

    @property
    def extent(self) -> Mapping[str, int]:
        """How long it would go on, on how many processes."""
        ...


def tell_checked(job: CheckedJob) -> None:
    """Prints what the run would say and start with, and writes nothing."""
    console = StepConsole()
    for text in (job.config_text, *job.notes):
        console.say(text)
    if job.bad_rows:
        console.say(f"bad rows that would be skipped: {len(job.bad_rows)}; the first: {job.bad_rows[0].message}")
    extent = ", ".join(f"{name}: {number}" for name, number in job.extent.items())
    console.say(f"checked; {extent}. Nothing was started or written; GPUs, memory and nodes were not looked at")
