"""Whatever happens in between, the tracker names a whole checkpoint."""

from pathlib import Path

import pytest

from rl_train.errors import TrainConfigError
from rl_train.megatron import checkpoint_folder
from rl_train.megatron.checkpoint_folder import TRACKER, TrainerState, latest_checkpoint, read_state

SIZES = {"tensor": 1, "pipeline": 1, "data": 2}


def save(folder: Path, step: int, text: str = "weights") -> Path:
    partial = checkpoint_folder.begin(folder, step)
    (partial / "tensors").write_text(text)
    return checkpoint_folder.commit(partial, TrainerState(step=step, parallel_sizes=SIZES, caller={"position": step}))


def test_the_latest_checkpoint_is_the_one_that_was_committed_last(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 2)
    assert save(tmp_path, 4) == tmp_path / "iter_0000004"
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000004"
    assert (tmp_path / TRACKER).read_text() == "4"
    state = read_state(tmp_path / "iter_0000004")
    assert (state.step, state.parallel_sizes, state.caller) == (4, SIZES, {"position": 4})
    assert not list(tmp_path.glob("*.tmp"))


def test_a_save_that_stops_halfway_leaves_the_one_before_and_is_begun_anew(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (checkpoint_folder.begin(tmp_path, 4) / "half").write_text("of the weights")
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000002"
    save(tmp_path, 4)
    assert not (tmp_path / "iter_0000004" / "half").exists()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4, "first")
    save(tmp_path, 4, "second")
    assert (tmp_path / "iter_0000004" / "tensors").read_text() == "second"
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000004"


def test_a_converted_model_is_found_and_is_no_run_to_resume(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / TRACKER).write_text("release\n")
    assert latest_checkpoint(tmp_path) == tmp_path / "release"
    with pytest.raises(TrainConfigError, match="not a run to resume"):
        read_state(tmp_path / "release")


def test_a_tracker_without_its_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text("12")
    with pytest.raises(TrainConfigError, match="iter_0000012, which is not in"):
        latest_checkpoint(tmp_path)
