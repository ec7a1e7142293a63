"""Time per phase of a step."""

import time
from collections.abc import Generator
from contextlib import contextmanager


class PhaseClock:
    """Seconds of named phases that follow each other, and of the whole since the clock was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Counts the block towards `name`."""
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Phase -> seconds, and the whole as "step"."""
        return {**self._seconds, "step": time.perf_counter() - self._started}
