"""Generate, score and evaluate with inference engines."""

from rl_rollout.engine import Engine, GenerateRequest, Generation, SamplingParams
from rl_rollout.errors import EngineDeadlineError, EngineError, RLRolloutError, RolloutConfigError

__all__ = [
    "Engine",
    "EngineDeadlineError",
    "EngineError",
    "GenerateRequest",
    "Generation",
    "RLRolloutError",
    "RolloutConfigError",
    "SamplingParams",
]
