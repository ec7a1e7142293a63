"""Supervised and reinforcement-learning steps with Megatron-Core on given batches."""

from rl_train.errors import RLTrainError, TrainConfigError, TrainerDeadlineError, TrainerError
from rl_train.trainer import StepResult, Trainer

__all__ = ["RLTrainError", "StepResult", "TrainConfigError", "Trainer", "TrainerDeadlineError", "TrainerError"]
