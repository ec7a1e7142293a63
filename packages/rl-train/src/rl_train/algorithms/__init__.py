"""Advantages and losses, one module per algorithm: pure functions of arrays, without a trainer or a process group."""

from rl_train.algorithms.advantages import compute_advantages
from rl_train.algorithms.config import AlgorithmConfig
from rl_train.algorithms.policy_loss import PolicyLoss, make_loss
from rl_train.algorithms.sft import SFTLoss, sft_loss
from rl_train.algorithms.types import LossFunction, LossInputs, LossOutput

__all__ = [
    "AlgorithmConfig",
    "LossFunction",
    "LossInputs",
    "LossOutput",
    "PolicyLoss",
    "SFTLoss",
    "compute_advantages",
    "make_loss",
    "sft_loss",
]
