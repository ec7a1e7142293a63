"""Checkpoints in Megatron's torch_dist format: what a rank needs to go on as if it had never stopped."""

# pyright: standard
# Megatron-Core is annotated in part only.

import os
import queue
import random
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state, tensor_parallel
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch.distributed.checkpoint.api import CheckpointException

from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError, TrainerError
from rl_train.megatron import checkpoint_folder
from rl_train.megatron.checkpoint_folder import TrainerState
from rl_train.megatron.model import module_of
from rl_train.megatron.optimizer import load_optimizer_state
from rl_train.megatron.parallel import same_outcome
from rl_train.megatron.torch_dist import load_torch_dist

# "dp_reshardable": every rank writes its own part of the optimizer's state, and a run may be resumed on another number
# of data-parallel ranks. Megatron's "fully_reshardable", which would allow other tensor- and pipeline-parallel sizes
# too, mixes up the state of a pipeline stage with a tied output layer: it looks up parameters at padded offsets in a
# buffer that it has put together without the padding (megatron-core 0.19.2, sharded_param_state_fully_reshardable).
_METADATA: Mapping[str, Any] = {
    "distrib_optim_sharding_type": "dp_reshardable",
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}


class Checkpointer:
    """Saves and restores model, optimizer, schedule and random states of one rank. Every call is collective."""

    def __init__(
        self, model: DistributedDataParallel, optimizer: ChainedOptimizer, scheduler: OptimizerParamScheduler
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._scheduler = scheduler

    def save(self, folder: Path, step: int, state: Mapping[str, JsonValue]) -> Path:
        """Writes beside the final folder, renames, then points the tracker at it; returns the final folder.

        Whenever it is interrupted, the tracker names a complete checkpoint.

        Raises:
            TrainerError: if a rank could not write. On every rank, unless it is one of Megatron's own small files,
                which rank 0 writes alone.
        """
        is_first = dist.get_rank() == 0
        partial = checkpoint_folder.partial_of(folder, step)
        # The other ranks write nothing before the folder is there.
        with same_outcome(), _refusal_named(partial):
            if is_first:
                checkpoint_folder.begin(folder, step)
        _write_in_this_process()
        with _refusal_named(partial):
            dist_checkpointing.save(self._state(is_loading=False), str(partial), TorchDistSaveShardedStrategy())
        saved = TrainerState(step=step, parallel_sizes=_parallel_sizes(), caller=state)
        with same_outcome(), _refusal_named(partial):
            if is_first:
                checkpoint_folder.commit(partial, saved)
        return partial.with_suffix("")

    def load(self, folder: Path) -> tuple[int, Mapping[str, JsonValue]]:
        """Restores the latest checkpoint in `folder`; returns its step and the caller's state.

        Random states are restored where the number of data-parallel ranks is that of the save.

        Raises:
            TrainConfigError: if there is no checkpoint to resume, or one of other tensor- or pipeline-parallel sizes.
            CheckpointError: if its metadata are damaged or more than metadata.
        """
        with same_outcome():
            checkpoint, saved = _resumable(folder)
        is_same_layout = saved.parallel_sizes == _parallel_sizes()
        state = self._state(is_loading=True)
        if not is_same_layout:
            del state["rng_state"]
        loaded = load_torch_dist(state, checkpoint)
        module_of(self._model).load_state_dict(loaded["model"])
        load_optimizer_state(self._optimizer, loaded["optimizer"])
        # Megatron adds the checkpoint's steps to those that the schedule has taken.
        self._scheduler.num_steps = 0
        self._scheduler.load_state_dict(loaded["opt_param_scheduler"])
        if is_same_layout:
            _restore_random_states(loaded["rng_state"])
        return saved.step, saved.caller

    def _state(self, *, is_loading: bool) -> dict[str, Any]:
        metadata = {**_METADATA, "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
        model = module_of(self._model).sharded_state_dict(metadata=metadata)
        return {
            "model": model,
            "optimizer": self._optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=metadata),
            "opt_param_scheduler": self._scheduler.state_dict(),
            "rng_state": _random_states(),
            "checkpoint_version": 3.0,
        }


@contextmanager
def _refusal_named(partial: Path) -> Generator[None]:
    """Raises TrainerError, which says where and how much room there is, for what the disk refuses."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        # Megatron's writer gives the class of an OSError, and not what it said.
        nearest = next(one for one in (partial, *partial.parents) if os.access(one, os.F_OK))
        free_mb = shutil.disk_usage(nearest).free / 2**20
        raise TrainerError(
            f"{partial}: the checkpoint was not written, with {free_mb:.1f} MiB free on that disk; "
            f"{checkpoint_folder.TRACKER} beside it names the latest whole one, if there is one: {error}"
        ) from error


def _resumable(folder: Path) -> tuple[Path, TrainerState]:
    """The latest checkpoint, if this layout can resume it."""
    checkpoint = checkpoint_folder.latest_checkpoint(folder)
    if checkpoint is None:
        raise TrainConfigError(f"{folder}: no {checkpoint_folder.TRACKER}, so no complete checkpoint")
    saved = checkpoint_folder.read_state(checkpoint)
    sizes = _parallel_sizes()
    for name in ("tensor", "pipeline"):
        if saved.parallel_sizes[name] != sizes[name]:
            raise TrainConfigError(
                f"{checkpoint}: written with --{name}-model-parallel-size {saved.parallel_sizes[name]} and can be "
                f"resumed with no other, got {sizes[name]}; its weights alone can be loaded in any layout"
            )
    return checkpoint, saved


def _parallel_sizes() -> dict[str, int]:
    return {
        "tensor": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline": parallel_state.get_pipeline_model_parallel_world_size(),
        "data": parallel_state.get_data_parallel_world_size(),
    }


def _random_states() -> ShardedObject:
    """Random states of this rank, one shard per rank."""
    states = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(),
        "tracker": _tracker().get_states(),
    }
    return ShardedObject("rng_state", states, (dist.get_world_size(),), (dist.get_rank(),))


def _tracker() -> Any:
    """Megatron's own random states, one for each parallel group that needs one."""
    return tensor_parallel.get_cuda_rng_tracker()


def _restore_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["random"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state(states["device"])
    _tracker().set_states(states["tracker"])


def _write_in_this_process() -> None:
    """Takes the result queue of Megatron's writer into this process.

    The queue is made for a writer in another process and lives in a third, spawned one, which costs seconds and imports
    the main script again. A save that is waited for writes in this process and needs neither. Goes when Megatron's
    synchronous save has a queue of its own (megatron/core/dist_checkpointing/strategies/filesystem_async.py).
    """
    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.Queue()
