"""What a recipe asks of a trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
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


class TrainerPart(StrEnum):
    """Memory that a trainer can give up between its steps."""

    GRADIENTS = "gradients"
    """Dropped: nothing needs them between steps."""
    OPTIMIZER = "optimizer"
    """Master weights and moments, to host memory."""
    PARAMETERS = "parameters"
    """The weights that the model computes with, to host memory. Needed for publishing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory of one rank. What concerns a GPU is None without one."""

    resident_bytes: int
    """Of the rank's process, in host memory."""
    parked_bytes: int
    """Buffers in host memory for what was moved off the GPU; part of `resident_bytes`."""
    device_bytes: int | None = None
    """In use on the rank's GPU now, by all processes."""
    allocated_peak_bytes: int | None = None
    """Most that the rank's tensors held at once since the last look."""
    reserved_peak_bytes: int | None = None
    """Most that the rank's allocator had from the driver since the last look."""


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

    def release_memory(self, *parts: TrainerPart) -> None:
        """Gives up the parts that are still there, so that an engine can use their memory. Collective.

        What needs a part raises MemoryReleasedError until `resume_memory`.
        """
        ...

    def resume_memory(self) -> None:
        """Takes back everything that was given up, as it was. Collective."""
        ...

    def close(self) -> None:
        """Ends every process of the trainer."""
        ...
