"""The numbers at the head of the page."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rl_data.json import JsonValue


class Tile(NamedTuple):
    """A number with its name."""

    name: str
    value: str


_PAIRS = (
    ("Mean reward", "reward_first", "reward_last"),
    ("Held-out accuracy", "accuracy_before", "accuracy_after"),
)
_SINGLES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Max. logprob difference", "logprob_abs_diff_max", lambda value: f"{value:.1e}"),
    ("Steps", "steps", lambda value: f"{value:.0f}"),
    ("Time", "seconds", lambda value: _duration(value)),
    ("Seed", "seed", lambda value: f"{value:.0f}"),
)


def summary_tiles(summary: Mapping[str, JsonValue]) -> list[Tile]:
    """Tiles for what the summary holds: before and after in one, then single numbers."""
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    pairs = [
        Tile(name, f"{numbers[first]:.2f} \u2192 {numbers[last]:.2f}")
        for name, first, last in _PAIRS
        if first in numbers and last in numbers
    ]
    return [*pairs, *(Tile(name, show(numbers[key])) for name, key, show in _SINGLES if key in numbers)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
