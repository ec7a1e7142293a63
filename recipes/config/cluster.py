"""How many processes a recipe runs."""

from dataclasses import dataclass, field

from recipes.config.checks import require_at_least
from recipes.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerPlacementConfig:
    """Processes of the trainer. Where there is no GPU, a "GPU" is one process on the CPU.

    Raises:
        UsageError: if a number makes no sense.
    """

    actor_num_nodes: int = field(default=1, metadata={"help": "nodes that train"})
    actor_num_gpus_per_node: int = field(default=1, metadata={"help": "trainer ranks of a node, one per GPU"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "actor_num_gpus_per_node")
        if self.actor_num_nodes != 1:
            raise UsageError(f"--actor-num-nodes {self.actor_num_nodes}: expected 1; several nodes are not offered yet")

    @property
    def world_size(self) -> int:
        """Number of trainer ranks."""
        return self.actor_num_nodes * self.actor_num_gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacementConfig:
    """Processes of the engines, which run beside the trainer.

    Raises:
        UsageError: if a number makes no sense.
    """

    rollout_num_gpus: int = field(default=1, metadata={"help": "engines, one per GPU"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rollout_num_gpus")

    @property
    def num_engines(self) -> int:
        """Number of engines."""
        return self.rollout_num_gpus
