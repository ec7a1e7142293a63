"""How runs end when they are interrupted, when a part of them dies, and when the disk is full.

Those of which a part dies are on real data, where it is there: half a run on it has come as far as a whole one.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from recipes.ending import StopAfterStep, Stopped, run_to_its_end, telling_how_to_resume
from recipes.errors import UsageError
from recipes.run_folder import RunFolder
from rl_train.megatron.checkpoint_folder import TRACKER, latest_checkpoint
from tests.recipes.running import SHARED_DATA, Run, recipe, resume_command

REAL_PROBLEMS = SHARED_DATA / "gsm8k_train_dapo.jsonl"
REAL_CONVERSATIONS = SHARED_DATA / "gsm8k_train_openhermes.jsonl"

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


@pytest.mark.parametrize(("has_checkpoint", "number", "code"), [
    (False, signal.SIGTERM, 130), (True, signal.SIGTERM, 75), (True, signal.SIGINT, 130),
])  # fmt: skip
def test_a_run_stopped_outside_its_steps_goes_on_after_a_requeue_if_it_can(
    tmp_path, has_checkpoint, number, code, capsys
):
    folder = RunFolder(tmp_path / "a run", tmp_path / "checkpoints", config_text="")
    if has_checkpoint:
        (folder.checkpoints / TRACKER).write_text("1")

    def run(_: None) -> None:
        with telling_how_to_resume("python -m recipe", folder):
            os.kill(os.getpid(), number)
            pytest.fail("the signal was not heard")

    assert run_to_its_end("python -m recipe", lambda: None, run) == code
    if has_checkpoint:
        words = resume_command(capsys.readouterr().err)[1:]
        assert words == ["-m", "recipe", "--config", str(tmp_path / "a run" / "config.yaml"), "--resume"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_where_python_ignores_exceptions_ends_the_run_all_the_same(number, capsys):
    class Ends:
        def __del__(self):
            signal.raise_signal(number)

    def run(_: None) -> None:
        one = Ends()
        del one
        time.sleep(30)

    started = time.monotonic()
    assert run_to_its_end("recipe", lambda: None, run) == 130
    assert time.monotonic() - started < 10
    assert capsys.readouterr().err == "recipe: interrupted\n"


def test_work_that_is_under_way_when_a_signal_asks_for_the_end_is_given_up():
    ended: list[str] = []

    async def evaluate(seconds):
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(f"{seconds} s")
        return "report"

    async def run(stop):
        assert await stop.unless_asked(evaluate(0.01)) == "report"
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        assert await stop.unless_asked(evaluate(60)) is None

    with StopAfterStep() as stop:
        asyncio.run(run(stop))
        assert ended == ["0.01 s", "60 s"]
        stop.end_if_asked(0)  # no step: no checkpoint to go on from
        with pytest.raises(Stopped, match="after step 3, whose checkpoint is written"):
            stop.end_if_asked(3)


def test_what_the_user_can_mend_is_one_message_also_where_the_cluster_shows_it(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run", tmp_path / "checkpoints", config_text="")

    def run(_: None) -> None:
        with telling_how_to_resume("recipe", folder):
            raise UsageError("1 GPU, 2 are needed")

    assert run_to_its_end("recipe", lambda: None, run) == 2
    assert capsys.readouterr().err == "recipe: 1 GPU, 2 are needed\n"


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


class Ended(NamedTuple):
    """A run of which a part was killed, after its end."""

    exit_code: int
    out: str
    err: str
    left: list[str]
    folder: Path


def ended(run: Run, folder: Path, *, after: str, victim: Callable[[], psutil.Process]) -> Ended:
    """Kills a part of the run when its output has `after`."""
    try:
        run.wait_for(after)
        victim().kill()
        return Ended(run.end(20), run.out, run.err, run.left_after(GONE_WITHIN_S), folder)
    finally:
        run.clean_up()


def rows(file: Path) -> list[dict]:
    with file.open() as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def run_without_engine(inputs, tmp_path_factory) -> Ended:
    folder = tmp_path_factory.mktemp("engine")
    data = REAL_PROBLEMS if REAL_PROBLEMS.is_file() else inputs.prompts
    run = Run(grpo(inputs, folder / "run", "--prompt-data", data), folder / "log")
    return ended(run, folder / "run", after="grpo 2 ", victim=lambda: run.wait_for_process("sglang::scheduler"))


@pytest.fixture(scope="module")
def run_without_rank(inputs, tmp_path_factory) -> Ended:
    folder = tmp_path_factory.mktemp("rank")
    data = REAL_CONVERSATIONS if REAL_CONVERSATIONS.is_file() else inputs.conversations
    run = Run(sft(inputs, folder / "run", "--prompt-data", data), folder / "log")
    return ended(run, folder / "run", after="sft 2  loss", victim=lambda: run.find("ray::_RankActor")[1])


@pytest.mark.slow
def test_a_run_whose_engine_dies_ends_with_the_engines_name(run_without_engine):
    assert run_without_engine.exit_code == 1
    assert "engine 0: its process ended" in run_without_engine.err
    assert "before its first checkpoint" in run_without_engine.err
    assert run_without_engine.left == []


@pytest.mark.slow
def test_grpo_takes_real_problems(run_without_engine):
    if not REAL_PROBLEMS.is_file():
        pytest.skip(f"{REAL_PROBLEMS} is not there")
    answers = {row["label"] for row in rows(REAL_PROBLEMS)}
    samples = rows(run_without_engine.folder / "samples.jsonl")
    assert len(samples) >= 16
    assert {sample["label"] for sample in samples} <= answers
    assert all(sample["reward"] in (0, 1) for sample in samples)


@pytest.mark.slow
def test_a_run_whose_rank_dies_ends_with_the_ranks_number(run_without_rank):
    err = run_without_rank.err
    assert run_without_rank.exit_code == 1
    assert "trainer rank" in err.splitlines()[-1] or "died while training" in err
    assert run_without_rank.left == []


@pytest.mark.slow
def test_sft_takes_real_conversations(run_without_rank):
    if not REAL_CONVERSATIONS.is_file():
        pytest.skip(f"{REAL_CONVERSATIONS} is not there")
    first, second, *_ = rows(run_without_rank.folder / "metrics.jsonl")
    assert first["num_loss_tokens"] > 0
    assert second["loss"] != first["loss"]


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
