"""Checkpoints of either format, opened by what their folder holds."""

from pathlib import Path
from typing import TYPE_CHECKING

from rl_weights.errors import CheckpointError
from rl_weights.hf import HFCheckpoint
from rl_weights.torch_dist.names import is_torch_dist

if TYPE_CHECKING:
    from rl_weights.torch_dist.reader import TorchDistCheckpoint

type Checkpoint = HFCheckpoint | TorchDistCheckpoint


def open_checkpoint(path: Path | str, *, problems: list[str] | None = None) -> Checkpoint:
    """The checkpoint in that folder.

    Args:
        path: a folder of either format.
        problems: gets what is wrong with each file of a model folder's tensors, which is then left out (see
            `HFCheckpoint`). It is an error if None.

    Raises:
        CheckpointError: if there is no such folder, it is neither format, or its files are damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    if is_torch_dist(folder):
        from rl_weights.torch_dist.reader import TorchDistCheckpoint

        return TorchDistCheckpoint(folder)
    if (folder / "config.json").is_file():
        return HFCheckpoint(folder, problems=problems)
    raise CheckpointError(
        f"{folder}: neither a model folder in Hugging Face format (config.json) nor a torch_dist checkpoint "
        f"(latest_checkpointed_iteration.txt or .metadata)"
    )
