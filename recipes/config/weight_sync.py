"""How weights get from the trainer to the engines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recipes.config.checks import require_at_least
from recipes.errors import UsageError
from rl_weights import SyncConfig

type _Transport = Literal["auto", "cuda_ipc", "host", "gloo", "nccl", "disk"]
type _Mode = Literal["full", "delta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSyncConfig:
    """Publishing of the weights after every rollout's steps.

    Raises:
        UsageError: if a number makes no sense, or a flag has no effect.
    """

    update_weight_transport: _Transport = field(
        default="auto",
        metadata={
            "help": "the way of the weights: cuda_ipc (engines read the memory of the trainer's GPU), host (bytes of "
            "host memory), gloo or nccl (a process group with each engine), disk (a shared folder); auto is cuda_ipc "
            "where every engine can read that memory, and else host",
        },
    )
    update_weight_mode: _Mode = field(
        default="full",
        metadata={
            "help": "on a disk: everything, or what changed since the version before",
        },
    )
    update_weight_disk_dir: Path | None = field(
        default=None,
        metadata={
            "help": "folder for --update-weight-transport disk, which all machines share; default: RUN_DIR/weights"
        },
    )
    update_weight_buffer_size: int = field(
        default=2**30,
        metadata={
            "help": "bytes of the pieces in which weights travel; two of them are allocated while weights are published"
        },
    )
    check_weight_update_equal: bool = field(
        default=False,
        metadata={"help": "compare the checksum of every tensor in every engine with the trainer's after a publish"},
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "update_weight_buffer_size")
        if self.update_weight_transport == "disk":
            return
        if self.update_weight_mode == "delta":
            raise UsageError("--update-weight-mode delta has no effect without --update-weight-transport disk")
        if self.update_weight_disk_dir is not None:
            raise UsageError("--update-weight-disk-dir has no effect without --update-weight-transport disk")

    def sync_config(self, run_dir: Path) -> SyncConfig:
        """What the trainer is told.

        Args:
            run_dir: folder of the run.
        """
        folder, owner = None, None
        if self.update_weight_transport == "disk":
            folder, owner = (self.update_weight_disk_dir or run_dir / "weights").absolute(), str(run_dir.absolute())
        return SyncConfig(
            transport=self.update_weight_transport, mode=self.update_weight_mode, folder=folder, owner=owner
        )
