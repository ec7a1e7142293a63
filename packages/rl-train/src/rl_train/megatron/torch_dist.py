"""Checkpoints in Megatron's torch_dist format, read without running code that a file might bring."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from torch.distributed.checkpoint.api import CheckpointException

from rl_train.errors import TrainerError
from rl_train.megatron.parallel import same_outcome
from rl_weights import TorchDistCheckpoint

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load_torch_dist(state: dict[str, Any], checkpoint: Path) -> Any:
    """Megatron's `dist_checkpointing.load`, of tensors and plain values alone. Collective.

    Megatron and torch unpickle a checkpoint's `.metadata` and the objects in it as they are. Here the metadata are
    read first by rl-weights, which builds nothing but descriptions of tensors, and objects as `torch.load` reads them
    with `weights_only`: plain values and the few classes that Megatron has registered for it.

    Args:
        state: Megatron's sharded state dict, which says what is wanted.
        checkpoint: folder of one checkpoint.

    Raises:
        CheckpointError: on every rank, if a rank finds the metadata damaged or more than metadata. Nothing is loaded.
        TrainerError: if the rest is damaged, or holds objects that are no plain values. Weights may be lost.
    """
    with same_outcome():
        TorchDistCheckpoint(checkpoint)
    try:
        with _plain_values_only():
            return dist_checkpointing.load(state, str(checkpoint))
    except CheckpointException as error:
        reasons = "; ".join(f"rank {rank}: {reason[0]}" for rank, reason in sorted(error.failures.items()))
        raise TrainerError(f"{checkpoint}: cannot be loaded: {reasons}") from error


@contextmanager
def _plain_values_only() -> Generator[None]:
    """`torch.load` reads with `weights_only`, whatever its callers ask for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
