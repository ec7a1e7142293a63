"""Settings of the recipes that belong to no library. One dataclass per component."""

from recipes.config.batch import BatchConfig
from recipes.config.cluster import EnginePlacementConfig, TrainerPlacementConfig
from recipes.config.evaluation import EvalConfig
from recipes.config.run import RunConfig
from recipes.config.weight_sync import WeightSyncConfig

__all__ = [
    "BatchConfig",
    "EnginePlacementConfig",
    "EvalConfig",
    "RunConfig",
    "TrainerPlacementConfig",
    "WeightSyncConfig",
]
