"""The layout of a folder of checkpoints, as Megatron names things: iter_0000012/ and latest_checkpointed_iteration.txt.

Plain files: importing this imports nothing heavy.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError

TRACKER = "latest_checkpointed_iteration.txt"
_STATE = "rl_train_state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """What a checkpoint holds beside tensors."""

    step: int
    """Optimizer steps taken."""
    parallel_sizes: Mapping[str, int]
    """Tensor-, pipeline- and data-parallel sizes that wrote it."""
    caller: Mapping[str, JsonValue]
    """The state that the caller gave."""


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that the tracker file names: iter_0000012 or release; None where there is no tracker.

    Raises:
        TrainConfigError: if the tracker names a checkpoint that is not there.
    """
    tracker = folder / TRACKER
    if not tracker.is_file():
        return None
    name = tracker.read_text().strip()
    checkpoint = folder / (name if name == "release" else f"iter_{int(name):07d}" if name.isdigit() else name)
    if not checkpoint.is_dir():
        raise TrainConfigError(f"{tracker} names {checkpoint.name}, which is not in {folder}")
    return checkpoint


def partial_of(folder: Path, step: int) -> Path:
    """The folder beside the final one that a checkpoint is written into."""
    return folder / f"iter_{step:07d}.tmp"


def begin(folder: Path, step: int) -> Path:
    """`partial_of`, made, and empty: what an interrupted save left there goes."""
    partial = partial_of(folder, step)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, state: TrainerState) -> Path:
    """Makes a written checkpoint the latest one, in steps each of which leaves a valid latest checkpoint."""
    _write(
        partial / _STATE,
        json.dumps({"step": state.step, "parallel_sizes": state.parallel_sizes, "caller": state.caller}),
    )
    final = partial.with_suffix("")
    if final.exists():
        # The same step again, after a resume from before it: the tracker must not name a folder that is not there.
        _forget(final)
        shutil.rmtree(final)
    partial.rename(final)
    tracker = final.parent / TRACKER
    beside = tracker.with_suffix(".tmp")
    _write(beside, str(state.step))
    beside.replace(tracker)
    return final


def read_state(checkpoint: Path) -> TrainerState:
    """What `commit` wrote.

    Raises:
        TrainConfigError: if the checkpoint holds weights only.
    """
    path = checkpoint / _STATE
    if not path.is_file():
        raise TrainConfigError(f"{checkpoint}: no {_STATE}: these are weights to start from, not a run to resume")
    return TrainerState(**json.loads(path.read_text()))


def _forget(checkpoint: Path) -> None:
    """Points the tracker at the newest other checkpoint, or removes it."""
    folder = checkpoint.parent
    others = sorted(path for path in folder.glob("iter_???????") if path != checkpoint and (path / _STATE).is_file())
    tracker = folder / TRACKER
    if latest_checkpoint(folder) != checkpoint:
        return
    if others:
        beside = tracker.with_suffix(".tmp")
        _write(beside, str(int(others[-1].name.removeprefix("iter_"))))
        beside.replace(tracker)
    else:
        tracker.unlink()


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
