"""Advantages and losses, one module per algorithm: pure functions of arrays, without a trainer or a process group.

The losses need torch: their names are imported when they are first asked for, so that reading a configuration is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rl_train.algorithms.advantages import compute_advantages
from rl_train.algorithms.config import AlgorithmConfig

if TYPE_CHECKING:
    from rl_train.algorithms.policy_loss import PolicyLoss, make_loss
    from rl_train.algorithms.sft import SFTLoss, sft_loss
    from rl_train.algorithms.types import LinearLoss, LossFunction, LossInputs, LossOutput

__all__ = [
    "AlgorithmConfig",
    "LinearLoss",
    "LossFunction",
    "LossInputs",
    "LossOutput",
    "PolicyLoss",
    "SFTLoss",
    "compute_advantages",
    "make_loss",
    "sft_loss",
]

_MODULE_OF = {
    "LinearLoss": "types",
    "LossFunction": "types",
    "LossInputs": "types",
    "LossOutput": "types",
    "PolicyLoss": "policy_loss",
    "SFTLoss": "sft",
    "make_loss": "policy_loss",
    "sft_loss": "sft",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f"{__name__}.{_MODULE_OF[name]}"))[name]
