"""How runs end when they are interrupted, when a part of them dies, and when the disk is full."""

import signal
import subprocess

import pytest

from rl_train.megatron.checkpoint_folder import latest_checkpoint
from tests.recipes.running import recipe

ENDS_WITHIN_S = 10.0
# The kernel needs a moment to take down what was killed, and this machine may have other work.
GONE_WITHIN_S = 5.0
SMALL = ("--rollout-batch-size", 4, "--n-samples-per-prompt", 4, "--global-batch-size", 16)


def grpo(inputs, run_dir, *words):
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.prompts, "--run-dir", run_dir)
    return recipe("grpo", *paths, "--num-rollout", 300, *SMALL, *words)


def sft(inputs, run_dir, *words):
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.conversations, "--run-dir", run_dir)
    return recipe("sft", *paths, "--num-rollout", 3000, *words)


@pytest.mark.slow
def test_an_interrupt_while_flags_are_read_ends_the_parsers(start, inputs, tmp_path):
    run = start(sft(inputs, tmp_path / "run"))
    run.wait_for_process("recipes.arguments.foreign")
    run.send(signal.SIGTERM)
    assert run.end(ENDS_WITHIN_S) == 130
    assert run.left_after(GONE_WITHIN_S) == []
    assert "Traceback" not in run.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interrupt_while_engine_and_trainer_start_ends_the_run(start, inputs, tmp_path):
    run = start(grpo(inputs, tmp_path / "run"))
    run.wait_for_process("rl_rollout.sglang.host")
    run.send(signal.SIGTERM)
    assert run.end(ENDS_WITHIN_S) == 130
    assert run.left_after(GONE_WITHIN_S) == []
    assert "before its first checkpoint" in run.err
    assert "Traceback" not in run.err
    assert list(run.tmp.glob("rl-*")) == []


@pytest.mark.slow
def test_a_run_whose_engine_dies_ends_with_the_engines_name(start, inputs, tmp_path):
    run = start(grpo(inputs, tmp_path / "run"))
    run.wait_for("grpo 1 ")
    run.wait_for_process("sglang::scheduler").kill()
    assert run.end(20) == 1
    assert "engine 0: its process ended" in run.err
    assert "before its first checkpoint" in run.err
    assert run.left_after(GONE_WITHIN_S) == []


@pytest.mark.slow
def test_a_run_whose_rank_dies_ends_with_the_ranks_number(start, inputs, tmp_path):
    run = start(sft(inputs, tmp_path / "run"))
    run.wait_for("sft 1 ")
    run.find("ray::_RankActor")[1].kill()
    assert run.end(20) == 1
    assert "trainer rank" in run.err.splitlines()[-1] or "died while training" in run.err
    assert run.left_after(GONE_WITHIN_S) == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder that holds 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(start, inputs, small_disk):
    run = start(sft(inputs, small_disk / "run", "--save-interval", 1))
    assert run.end() == 1
    assert "the checkpoint was not written, with 0.0 MiB free on that disk" in run.err
    assert "--resume" in run.err
    checkpoint = latest_checkpoint(small_disk / "run" / "checkpoints")
    assert checkpoint is not None
    # What was begun after it is not taken for one.
    assert not (checkpoint.parent / f"iter_{int(checkpoint.name[5:]) + 1:07d}").exists()
    assert run.left_after(GONE_WITHIN_S) == []
