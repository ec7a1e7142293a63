"""How many processes a recipe runs, and where."""

from dataclasses import dataclass, field

from recipes.config.checks import require_at_least
from recipes.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Processes of trainer and engines.

    Where there is no GPU, a "GPU" is one process on the CPU.

    Raises:
        UsageError: if a number makes no sense or the engines do not fit.
    """

    actor_num_nodes: int = field(default=1, metadata={"help": "nodes that train"})
    actor_num_gpus_per_node: int = field(default=1, metadata={"help": "trainer ranks of a node, one per GPU"})
    rollout_num_gpus: int | None = field(
        default=None, metadata={"help": "GPUs that generate; default: those of the trainer with --colocate, else 1"}
    )
    rollout_num_gpus_per_engine: int = field(
        default=1, metadata={"help": "GPUs of an engine, which is split over them by tensor parallelism"}
    )
    colocate: bool = field(default=False, metadata={"help": "generate and train on the same GPUs, one after the other"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "actor_num_gpus_per_node", "rollout_num_gpus", "rollout_num_gpus_per_engine")
        if self.actor_num_nodes != 1:
            raise UsageError(f"--actor-num-nodes {self.actor_num_nodes}: expected 1; several nodes are not offered")
        if self.num_rollout_gpus % self.rollout_num_gpus_per_engine:
            raise UsageError(
                f"--rollout-num-gpus-per-engine {self.rollout_num_gpus_per_engine}: it does not divide "
                f"the {self.num_rollout_gpus} GPUs that generate (--rollout-num-gpus)"
            )
        if self.colocate and self.num_rollout_gpus > self.world_size:
            raise UsageError(
                f"--rollout-num-gpus {self.rollout_num_gpus}: with --colocate at most the trainer's {self.world_size}"
            )

    @property
    def world_size(self) -> int:
        """Number of trainer ranks."""
        return self.actor_num_nodes * self.actor_num_gpus_per_node

    @property
    def num_rollout_gpus(self) -> int:
        """GPUs that generate."""
        if self.rollout_num_gpus is not None:
            return self.rollout_num_gpus
        return self.world_size if self.colocate else self.rollout_num_gpus_per_engine

    @property
    def num_engines(self) -> int:
        """Number of engines."""
        return self.num_rollout_gpus // self.rollout_num_gpus_per_engine
