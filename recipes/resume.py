"""Going on with a run from its last checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from recipes.config import RunConfig
from recipes.errors import UsageError
from recipes.run_folder import RunFolder
from rl_data.json import JsonValue
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.checkpoint_folder import latest_checkpoint, read_state

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup


_DECAY_ITERS = "lr_decay_iters"


class _Source(Protocol):
    def state_dict(self) -> dict[str, JsonValue]: ...

    def load_state_dict(self, state: Mapping[str, JsonValue], /) -> None: ...


def check_length(run: RunConfig, num_steps: int) -> None:
    """Does nothing unless a run is to go on whose last checkpoint is of a step that it is no longer to reach.

    Raises:
        TrainConfigError: if the checkpoint is not whole.
        UsageError: naming the flag that ends the run, and the checkpoint's step.
    """
    if not run.resume:
        return
    step = _step_of(_last_state(run))
    if num_steps < step:
        flag = f"--num-rollout {num_steps}"
        if run.num_rollout != num_steps:
            flag = f"--num-epoch {run.num_epoch}, which is {num_steps} steps"
        raise UsageError(f"{flag}: expected at least {step}, the step of the checkpoint in {run.checkpoints}")


def check_place(run: RunConfig, source: _Source) -> None:
    """Does nothing unless a run is to go on whose last checkpoint is of other data than the source's.

    Raises:
        DataError: naming the data, and what is different.
    """
    if run.resume:
        source.load_state_dict(_place_of(_last_state(run)))


def schedule_note(run: RunConfig, megatron: MegatronArguments) -> str | None:
    """What a user should know whose run goes on with another decay of the learning rate; None otherwise."""
    style = megatron.values["lr_decay_style"]
    if not run.resume or style == "constant":
        return None
    before, now = _last_state(run).get(_DECAY_ITERS), _decay_iters(megatron)
    if before in (None, now):  # None: of a run whose checkpoints did not say it yet
        return None
    return (
        f"--lr-decay-style {style}: the decay was over {before} optimizer steps and now is over {now}, as if it always "
        f"had been; --lr-decay-iters {before} keeps it"
    )


def saved_state(step: int, source: _Source, megatron: MegatronArguments) -> dict[str, JsonValue]:
    """What a checkpoint after `step` holds beside the trainer's own state."""
    return {"step": step, "source": source.state_dict(), _DECAY_ITERS: _decay_iters(megatron)}


def resume_run(trainer: "TrainerGroup", folder: RunFolder, source: _Source) -> int:
    """Takes the last checkpoint's place in the data and forgets what was logged after it; returns its step."""
    state = trainer.load_checkpoint(folder.checkpoints)
    source.load_state_dict(_place_of(state))
    step = _step_of(state)
    folder.keep_until(step)
    return step


def _last_state(run: RunConfig) -> Mapping[str, JsonValue]:
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None  # the run's folder was checked
    return read_state(checkpoint).caller


def _decay_iters(megatron: MegatronArguments) -> JsonValue:
    """Optimizer steps over which the learning rate decays: those of the run, unless told otherwise."""
    return megatron.values["lr_decay_iters"] or megatron.values["train_iters"]


def _place_of(state: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    place = state["source"]
    assert isinstance(place, dict)
    return place


def _step_of(state: Mapping[str, JsonValue]) -> int:
    step = state["step"]
    assert isinstance(step, int)
    return step
