"""The dataclasses whose fields are the flags of each recipe."""

from recipes.config import (
    BatchConfig,
    EnginePlacementConfig,
    EvalConfig,
    RunConfig,
    TrainerPlacementConfig,
    WeightSyncConfig,
)
from rl_data import ConversationDataConfig, GraderConfig, PromptDataConfig
from rl_rollout import EngineConfig, RolloutConfig
from rl_train.algorithms import AlgorithmConfig
from rl_train.megatron.config import MegatronTrainerConfig, TrainerGroupConfig

GRPO = (
    RunConfig,
    TrainerPlacementConfig,
    EnginePlacementConfig,
    WeightSyncConfig,
    PromptDataConfig,
    RolloutConfig,
    GraderConfig,
    AlgorithmConfig,
    BatchConfig,
    EvalConfig,
    EngineConfig,
    MegatronTrainerConfig,
    TrainerGroupConfig,
)
SFT = (
    RunConfig,
    TrainerPlacementConfig,
    ConversationDataConfig,
    BatchConfig,
    MegatronTrainerConfig,
    TrainerGroupConfig,
)
