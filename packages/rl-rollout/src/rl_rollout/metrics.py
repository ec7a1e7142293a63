"""Numbers about samples, and the time during which something was being done."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from rl_data import FinishReason, Sample


class BusyTime:
    """Seconds during which at least one of several overlapping activities ran."""

    def __init__(self) -> None:
        self._num_active = 0
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Generator[None]:
        """One activity, from entry to exit."""
        if self._num_active == 0:
            self._since = time.perf_counter()
        self._num_active += 1
        try:
            yield
        finally:
            self._num_active -= 1
            if self._num_active == 0:
                self._seconds += time.perf_counter() - self._since

    @property
    def seconds(self) -> float:
        """Busy seconds so far, of finished activities."""
        return self._seconds


def sample_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over scored samples; empty for none.

    Returns:
        reward_mean, response_length_mean and response_length_max (tokens), and truncated_share (of samples that reached
        the token limit).
    """
    if not samples:
        return {}
    lengths = np.array([sample.response_length for sample in samples])
    return {
        "reward_mean": float(np.mean([sample.reward for sample in samples if sample.reward is not None])),
        "response_length_mean": float(lengths.mean()),
        "response_length_max": float(lengths.max()),
        "truncated_share": float(np.mean([sample.finish_reason is FinishReason.LENGTH for sample in samples])),
    }
