"""Going on with a run from its last checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from recipes.config import RunConfig
from recipes.errors import UsageError
from recipes.run_folder import RunFolder
from rl_data.json import JsonValue
from rl_train.megatron.checkpoint_folder import latest_checkpoint, read_state

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup


class _Source(Protocol):
    def load_state_dict(self, state: Mapping[str, JsonValue], /) -> None: ...


def check_length(run: RunConfig, num_steps: int) -> None:
    """Does nothing unless a run is to go on whose last checkpoint is of a step that it is no longer to reach.

    Raises:
        TrainConfigError: if the checkpoint is not whole.
        UsageError: naming the flag that ends the run, and the checkpoint's step.
    """
    if not run.resume:
        return
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None  # the run's folder was checked
    step = _step_of(read_state(checkpoint).caller)
    if num_steps < step:
        flag = f"--num-rollout {num_steps}"
        if run.num_rollout != num_steps:
            flag = f"--num-epoch {run.num_epoch}, which is {num_steps} steps"
        raise UsageError(f"{flag}: expected at least {step}, the step of the checkpoint in {run.checkpoints}")


def resume_run(trainer: "TrainerGroup", folder: RunFolder, source: _Source) -> int:
    """Takes the last checkpoint's place in the data and forgets what was logged after it; returns its step."""
    state = trainer.load_checkpoint(folder.checkpoints)
    place = state["source"]
    assert isinstance(place, dict)
    source.load_state_dict(place)
    step = _step_of(state)
    folder.keep_until(step)
    return step


def _step_of(state: Mapping[str, JsonValue]) -> int:
    step = state["step"]
    assert isinstance(step, int)
    return step
