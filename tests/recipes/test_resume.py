"""A run that was killed or interrupted and resumed gives what a run without interruption gives, to the bit."""

import json
import signal
from pathlib import Path

import pytest

from recipes.errors import UsageError
from recipes.grpo.config import parse, read_job
from recipes.resume import saved_state
from recipes.run_folder import RunFolder, check_folder
from recipes.sft.config import read_job as read_sft
from rl_data import DataError
from rl_train.megatron import checkpoint_folder
from tests.recipes.listeners import check_that_strangers_are_kept_out
from tests.recipes.running import resume_command
from tests.recipes.short_runs import NUM_GRPO_STEPS, grpo, records, weights

# What is started for a GRPO run: Ray's parts, trainer ranks, the engine's process and grading workers.
PARTS = ("gcs_server", "raylet/raylet", "ray::_RankActor", "sglang::scheduler", "rl_data.grading.worker")


def assert_same_but_for_rounding(found, expected, key):
    """Which requests share a batch of the engine depends on time, and with it the last bits of log-probabilities.

    They are of the order of 10, where float32 is 1e-6 apart, and a sum over the vocabulary rounds a few times.
    """
    for one, other in zip(found, expected, strict=True):
        assert {**one, key: None} == {**other, key: None}
        assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=0, abs=1e-5)


def forget_evaluation(run_dir, step):
    """Takes the evaluations after a step out of metrics.jsonl; returns how many there were."""
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    kept = [line for line in lines if '"phase": "eval"' not in line or json.loads(line)["step"] != step]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    return len(lines) - len(kept)


def assert_memory_moved(run_dir, out):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "grpo"]
    assert len(steps) == NUM_GRPO_STEPS
    for step in steps:
        seconds, gib = step["seconds"], step["memory_gib"]
        assert seconds["switch"] == seconds["release"] + seconds["resume"] + seconds["publish"]
        assert 0 < seconds["switch"] < seconds["step"]
        phases = ("generate", "released", "train", "publish")
        assert gib.keys() == {f"{phase}_{what}" for phase in phases for what in ("resident", "parked")}
        # The optimizer's state and, after the first publication, the weights lie in host memory.
        assert 0 < gib["train_parked"] == gib["generate_parked"] < gib["train_resident"]
        assert f"rank GiB {max(gib.values()):.3f}" in out


@pytest.mark.slow
def test_grpo_killed_interrupted_and_resumed_gives_what_grpo_in_one_go_gives(
    start, easy_inputs, policy, straight, tmp_path
):
    inputs = easy_inputs._replace(model=policy / "model")
    # Trainer and engine take turns with their memory there, and have it side by side in the run that is interrupted,
    # whose engine has one rank instead of two.
    expected = records(straight.folder)
    assert_memory_moved(straight.folder, straight.out)

    # There weights come over gloo; here as bytes by way of Ray until the run is killed, and as deltas on a disk after.
    killed = start(grpo(inputs, tmp_path / "run", "--check-weight-update-equal"))
    killed.wait_for("eval 3 ")
    killed.send(signal.SIGSTOP)  # so that it does not end while it is looked at
    assert [part for part in PARTS if not killed.find(part)] == []
    check_that_strangers_are_kept_out(killed)
    killed.send(signal.SIGKILL)
    killed.end(1)
    assert killed.left_after(15) == []
    assert list(killed.tmp.glob("rl-*")) == []
    assert len(records(tmp_path / "run")) < len(expected)
    assert forget_evaluation(tmp_path / "run", 3) == 1  # as if it had been killed before: the checkpoint comes first

    # From here on with an engine on the place of a rank, both with all their memory there.
    shared = ("--colocate", "--no-offload-train", "--no-offload-rollout", "--rollout-num-gpus", 1)
    disk = ("--update-weight-transport", "disk", "--update-weight-mode", "delta", "--check-weight-update-equal")
    interrupted = start(grpo(inputs, tmp_path / "run", "--resume", *shared, *disk))
    interrupted.wait_for("grpo 4 ")
    interrupted.press_ctrl_c()
    assert interrupted.end(10) == 130
    assert interrupted.left_after(5) == []
    assert "Traceback" not in interrupted.err
    assert "grpo 1 " not in interrupted.out, "it began anew"
    assert len(records(tmp_path / "run")) < len(expected)

    resumed = start(resume_command(interrupted.err))
    assert resumed.end() == 0, resumed.err
    assert 0 < sum(line["reward_mean"] for line in expected if line["phase"] == "grpo") < NUM_GRPO_STEPS
    assert [line["step"] for line in expected if line["phase"] == "grpo"] == list(range(1, NUM_GRPO_STEPS + 1))
    assert_same_but_for_rounding(records(tmp_path / "run"), expected, "logprob_abs_diff")
    samples, expected_samples = (records(folder, "samples.jsonl") for folder in (tmp_path / "run", straight.folder))
    assert_same_but_for_rounding(samples, expected_samples, "rollout_logprobs")
    assert weights(tmp_path / "run") == weights(straight.folder)
    assert weights(tmp_path / "run") != weights(policy)


def test_lines_after_the_checkpoint_go_and_so_does_the_start_of_a_line(tmp_path):
    folder = RunFolder(tmp_path / "run", tmp_path / "run" / "checkpoints", config_text="lr: 1\n")
    for step in (1, 2, 3):
        folder.log_metrics({"step": step})
    metrics = tmp_path / "run" / "metrics.jsonl"
    with metrics.open("a") as out:
        out.write('{"step": 4, "lo')
    folder.keep_until(2)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]


@pytest.fixture
def earlier_run(inputs, parsers, tmp_path):
    """The folder of a run that ended, and the words that it was started with."""
    words = ["--preset", "tiny_math", "--hf-checkpoint", str(inputs.model), "--prompt-data", str(inputs.prompts)]
    words += ["--run-dir", str(tmp_path / "run")]
    job = read_job(words, parsers)
    folder = RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    folder.log_metrics({"step": 1})
    partial = checkpoint_folder.begin(job.run.checkpoints, 40)
    state = checkpoint_folder.TrainerState(
        step=40, parallel_sizes={}, caller={"step": 20, "source": job.source.state_dict()}
    )
    checkpoint_folder.commit(partial, state)
    return words


def contents(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_folder_that_holds_another_run_is_left_as_it_is(earlier_run, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"--run-dir .*run: it holds another run; give --resume"):
        read_job(earlier_run)
    with pytest.raises(UsageError, match=r"--resume: .*config.yaml says lr: 5e-4, now it is 0.1"):
        read_job([*earlier_run, "--resume", "--lr", "0.1"])
    with pytest.raises(UsageError, match=r"--resume: .*config.yaml says tensor-model-parallel-size: 1, now it is 2"):
        read_job([*earlier_run, "--resume", "--tensor-model-parallel-size", "2"])
    with pytest.raises(UsageError, match=r"--save .*checkpoints: it holds checkpoints of another run"):
        read_job([*earlier_run, "--run-dir", str(tmp_path / "other"), "--save", str(tmp_path / "run" / "checkpoints")])
    assert contents(tmp_path) == before


def test_resume_needs_a_run_and_a_checkpoint(tmp_path):
    run_dir, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    with pytest.raises(UsageError, match=r"--resume: .*run holds no run to resume"):
        check_folder(run_dir, checkpoints, config_text="lr: 1\n", is_resumed=True)
    RunFolder(run_dir, checkpoints, config_text="lr: 1\n")
    with pytest.raises(UsageError, match=r"--resume: .*checkpoints holds no checkpoint"):
        check_folder(run_dir, checkpoints, config_text="lr: 1\n", is_resumed=True)


def test_a_resumed_run_takes_servers_and_its_folder_at_other_addresses_but_no_other_settings(tmp_path):
    def settings(address: str, lr: float) -> str:
        return f'run-dir: {run_dir}\nrollout-external-engine-addrs: ["{address}"]\nlr: {lr}\n'

    run_dir, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    RunFolder(run_dir, checkpoints, config_text=settings("10.0.0.7:30000", 0.1))
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("1")
    run_dir, checkpoints = run_dir.rename(tmp_path / "moved"), tmp_path / "moved" / "checkpoints"
    check_folder(run_dir, checkpoints, config_text=settings("10.0.0.8:30001", 0.1), is_resumed=True)
    with pytest.raises(UsageError, match=r"config.yaml says lr: 0.1, now it is 0.2"):
        check_folder(run_dir, checkpoints, config_text=settings("10.0.0.8:30001", 0.2), is_resumed=True)


@pytest.mark.slow
def test_a_run_does_not_end_before_the_checkpoint_that_it_goes_on_from(earlier_run, parsers, tmp_path):
    before = contents(tmp_path)
    for words, said in (
        (("--num-rollout", "19"), "--num-rollout 19"),
        (("--num-rollout", "30", "--num-epoch", "1"), "--num-epoch 1, which is 12 steps"),
    ):
        with pytest.raises(UsageError, match=f"^{said}: expected at least 20, the step of the checkpoint in "):
            read_job([*earlier_run, "--resume", *words], parsers)
    assert contents(tmp_path) == before
    assert read_job([*earlier_run, "--resume", "--num-rollout", "20"], parsers).num_rollouts == 20


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_data(earlier_run, parsers, inputs, tmp_path):
    data = tmp_path / "fewer.jsonl"
    data.write_text(inputs.prompts.read_text())
    words = [str(data) if word == str(inputs.prompts) else word for word in earlier_run]
    words[words.index("--run-dir") + 1] = str(tmp_path / "other")
    job = read_job(words, parsers)
    job.source.next_batch(3)
    RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    state = checkpoint_folder.TrainerState(step=2, parallel_sizes={}, caller=saved_state(1, job.source, job.megatron))
    checkpoint_folder.commit(checkpoint_folder.begin(job.run.checkpoints, 2), state)
    assert read_job([*words, "--resume"], parsers).source.state_dict() == job.source.state_dict()
    num_rows = len(data.read_text().splitlines())
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=f"it has {num_rows}, now there are {num_rows - 1}"):
        read_job([*words, "--resume"], parsers)


@pytest.mark.slow
def test_a_decay_that_follows_from_another_length_is_said_and_can_be_kept(earlier_run, parsers):
    job = read_job([*earlier_run, "--resume"], parsers)
    state = saved_state(20, job.source, job.megatron)
    saved = checkpoint_folder.TrainerState(step=40, parallel_sizes={}, caller=state)
    checkpoint_folder.commit(checkpoint_folder.begin(job.run.checkpoints, 40), saved)
    said = "--lr-decay-style cosine: the decay was over 40 optimizer steps and now is over 80, "
    kept = ("--num-rollout", "80", "--lr-decay-iters", "40")
    for words, num_said in (((), 0), (("--num-rollout", "80"), 1), (kept, 0)):
        *notes, no_evaluation = read_job([*earlier_run, "--resume", *words], parsers).notes
        assert no_evaluation.startswith("no evaluation")
        assert [note.startswith(said) for note in notes] == [True] * num_said


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_ranks_and_engines(earlier_run, parsers):
    others = ("--actor-num-gpus-per-node", "1", "--rollout-num-gpus", "2", "--rollout-num-gpus-per-engine", "2")
    job = read_job([*earlier_run, "--resume", *others], parsers)
    assert (job.trainer_placement.world_size, job.engine_placement.num_engines(1)) == (1, 1)


def test_the_folder_of_another_preset_is_refused_by_the_names_of_both(earlier_run, parsers, tmp_path):
    words = ["--preset", "tiny_sft", *earlier_run[2:], "--resume"]
    with pytest.raises(
        UsageError,
        match=r"\(of python -m recipes.grpo --preset tiny_math, this is python -m recipes.sft "
        r"--preset tiny_sft\) says [a-z-]+: ",
    ):
        read_sft(words, parsers)
    # The run's own configuration still is that of the preset.
    resumed = parse(["--config", str(tmp_path / "run" / "config.yaml"), "--resume"])
    assert resumed.title == "python -m recipes.grpo --preset tiny_math"
