"""Supervised and reinforcement-learning steps with Megatron-Core on given batches."""

from rl_train.errors import (
    HostMemoryError,
    MemoryReleasedError,
    RLTrainError,
    TrainConfigError,
    TrainerDeadlineError,
    TrainerError,
)
from rl_train.trainer import MemoryUse, StepResult, Trainer, TrainerPart

__all__ = [
    "HostMemoryError",
    "MemoryReleasedError",
    "MemoryUse",
    "RLTrainError",
    "StepResult",
    "TrainConfigError",
    "Trainer",
    "TrainerDeadlineError",
    "TrainerError",
    "TrainerPart",
]
