"""Generate, score and evaluate with inference engines."""

from rl_rollout.engine import Engine, EnginePart, GenerateRequest, Generation, SamplingParams
from rl_rollout.errors import (
    EngineDeadlineError,
    EngineError,
    EngineNotServingError,
    RequestError,
    RLRolloutError,
    RolloutConfigError,
    RolloutStarvedError,
)
from rl_rollout.evaluation import EvalReport, evaluate
from rl_rollout.generate import GenerateContext, GenerateFunction, per_sample, single_turn
from rl_rollout.multi_turn import MultiTurn
from rl_rollout.pool import EnginePool
from rl_rollout.rollout import Rollout, RolloutResult
from rl_rollout.rollout_config import RolloutConfig
from rl_rollout.score import grade_many
from rl_rollout.sglang.config import EngineConfig
from rl_rollout.sglang.engine import SGLangEngine

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineDeadlineError",
    "EngineError",
    "EngineNotServingError",
    "EnginePart",
    "EnginePool",
    "EvalReport",
    "GenerateContext",
    "GenerateFunction",
    "GenerateRequest",
    "Generation",
    "MultiTurn",
    "RLRolloutError",
    "RequestError",
    "Rollout",
    "RolloutConfig",
    "RolloutConfigError",
    "RolloutResult",
    "RolloutStarvedError",
    "SGLangEngine",
    "SamplingParams",
    "evaluate",
    "grade_many",
    "per_sample",
    "single_turn",
]
