"""What a recipe asks of a trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rl_data import TrainBatch
from rl_data.json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Outcome of one optimizer step, equal on every rank."""

    step: int
    """Optimizer steps taken since the start of training, this one included."""
    loss: float
    grad_norm: float
    learning_rate: float
    is_skipped: bool
    """True where the gradient was not finite and the optimizer did nothing."""
    metrics: Mapping[str, float]
    """Loss-specific means over the trained tokens, such as clip_fraction, entropy, logprob_abs_diff."""
    seconds: Mapping[str, float]
    """Time per phase: forward_backward, optimizer."""


@runtime_checkable
class Trainer(Protocol):
    """A policy that can be trained; one rank of it, or a handle to all ranks."""

    @property
    def num_data_parallel_ranks(self) -> int:
        """How many ways `TrainBatch.microbatches` must be split."""
        ...

    def train_step(self, batch: TrainBatch) -> StepResult:
        """One optimizer step on the whole batch. Collective."""
        ...

    def compute_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """[R][M][T] log-probability of each token given those before it, 0 for a sequence's first. Collective."""
        ...

    def save_checkpoint(self, folder: Path, state: Mapping[str, JsonValue]) -> Path:
        """Writes model, optimizer, scheduler and random state, and `state` (the caller's own), atomically. Collective.

        Returns the folder of this step's checkpoint.
        """
        ...

    def load_checkpoint(self, folder: Path) -> Mapping[str, JsonValue]:
        """Restores what `save_checkpoint` wrote last in `folder` and returns the caller's `state`. Collective."""
        ...

    def close(self) -> None:
        """Ends every process of the trainer."""
        ...
