"""How many processes a recipe runs."""

import os
from dataclasses import dataclass, field

from recipes.config.checks import flag_of, require_at_least
from recipes.errors import UsageError
from rl_rollout import RolloutConfigError
from rl_rollout.sglang.http_wire import base_url


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerPlacementConfig:
    """Processes of the trainer. Where there is no GPU, a "GPU" is one process on the CPU.

    Raises:
        UsageError: if a number makes no sense.
    """

    actor_num_nodes: int = field(
        default=1, metadata={"help": "nodes that train; several need a Ray cluster, named by RAY_ADDRESS"}
    )
    actor_num_gpus_per_node: int = field(default=1, metadata={"help": "trainer ranks of a node, one per GPU"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "actor_num_nodes", "actor_num_gpus_per_node")
        if self.actor_num_nodes > 1 and not os.environ.get("RAY_ADDRESS"):
            raise UsageError(
                f"--actor-num-nodes {self.actor_num_nodes}: RAY_ADDRESS is not set; start Ray on the nodes, as "
                "recipes/slurm does, and set it to the head's address and port"
            )

    @property
    def world_size(self) -> int:
        """Number of trainer ranks."""
        return self.actor_num_nodes * self.actor_num_gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlacementConfig:
    """Processes of the engines, on GPUs of their own or on the trainer's, and whose turn the memory is.

    Raises:
        UsageError: if a number makes no sense, or a flag has no effect without another.
    """

    rollout_num_gpus: int | None = field(
        default=None,
        metadata={"help": "GPUs of all engines (default: those of one engine, and with --colocate the trainer's)"},
    )
    rollout_num_gpus_per_engine: int = field(
        default=1, metadata={"help": "GPUs of an engine, which spreads the model over them (SGLang's tp-size)"}
    )
    rollout_external_engine_addrs: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "HOST:PORT of SGLang servers that were started elsewhere on the model of --hf-checkpoint; none is "
            "started then, and weights get to them by --update-weight-transport disk"
        },
    )
    colocate: bool = field(
        default=False,
        metadata={
            "help": "engines run on the trainer's GPUs, in turns with it; turns on --offload-rollout and "
            "--offload-train unless their opposites are given. The trainer gives up its gradients' memory in any case; "
            "--sglang-mem-fraction-static leaves it room for the rest"
        },
    )
    offload_rollout: bool | None = field(
        default=None, metadata={"help": "engines give up weights and KV cache while the trainer works"}
    )
    offload_train: bool | None = field(
        default=None,
        metadata={
            "help": "the trainer's master weights and moments move to host memory while engines generate; not needed "
            "where they and the engine's --sglang-mem-fraction-static fit into the GPU together"
        },
    )
    offload_train_parameters: bool = field(
        default=False, metadata={"help": "under --offload-train the model's weights move too, once they are published"}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rollout_num_gpus", "rollout_num_gpus_per_engine")
        if self.rollout_num_gpus is not None and self.rollout_num_gpus % self.rollout_num_gpus_per_engine:
            raise UsageError(
                f"--rollout-num-gpus {self.rollout_num_gpus}: expected a multiple of --rollout-num-gpus-per-engine "
                f"{self.rollout_num_gpus_per_engine}"
            )
        self._check_external()
        for name in ("offload_rollout", "offload_train", "offload_train_parameters"):
            if getattr(self, name) and not self.colocate:
                raise UsageError(f"{flag_of(name)}: has no effect without --colocate")
        if self.offload_train_parameters and not self.moves_optimizer:
            raise UsageError("--offload-train-parameters: has no effect with --no-offload-train")

    def _check_external(self) -> None:
        addresses = self.rollout_external_engine_addrs
        if not addresses:
            return
        try:
            urls = [base_url(address) for address in addresses]
        except RolloutConfigError as error:
            raise UsageError(f"--rollout-external-engine-addrs: {error}") from error
        if len(set(urls)) < len(urls):
            raise UsageError(f"--rollout-external-engine-addrs {' '.join(addresses)}: expected each server once")
        given = {"colocate": self.colocate, "rollout-num-gpus": self.rollout_num_gpus is not None}
        given["rollout-num-gpus-per-engine"] = self.rollout_num_gpus_per_engine != 1
        if flag := next((flag for flag, is_given in given.items() if is_given), None):
            raise UsageError(
                f"--{flag} has no effect with --rollout-external-engine-addrs, whose engines have a place; where a "
                f"preset says it, `{flag}: null` in a file for --config takes it back"
            )

    def num_engines(self, world_size: int) -> int:
        """Number of engines that are started beside `world_size` trainer ranks."""
        if self.rollout_external_engine_addrs:
            return 0
        num_gpus = self.rollout_num_gpus
        if num_gpus is None:
            num_gpus = world_size if self.colocate else self.rollout_num_gpus_per_engine
        return num_gpus // self.rollout_num_gpus_per_engine

    @property
    def releases_engines(self) -> bool:
        """Whether engines leave their GPU to the trainer while it works."""
        return self.colocate and self.offload_rollout is not False

    @property
    def moves_optimizer(self) -> bool:
        """Whether the optimizer's state leaves its GPU to the engines while they generate."""
        return self.colocate and self.offload_train is not False
