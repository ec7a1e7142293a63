"""Generate, score and evaluate with inference engines."""

from rl_rollout.engine import Engine, GenerateRequest, Generation, SamplingParams
from rl_rollout.errors import EngineDeadlineError, EngineError, RequestError, RLRolloutError, RolloutConfigError
from rl_rollout.sglang.engine import EngineConfig, SGLangEngine

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineDeadlineError",
    "EngineError",
    "GenerateRequest",
    "Generation",
    "RLRolloutError",
    "RequestError",
    "RolloutConfigError",
    "SGLangEngine",
    "SamplingParams",
]
