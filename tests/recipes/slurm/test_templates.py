"""The batch files, run for real on the tiny model: one node and two, warned of the time limit and requeued once."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recipes.running import recipe
from tests.recipes.slurm.batch import NODES, ROOT, Job

TEMPLATES = ROOT / "recipes" / "slurm"
CONSTANT = ("--lr-warmup-iters", 0, "--lr-decay-style", "constant")
SFT = ("--num-rollout", 4, "--global-batch-size", 32, *CONSTANT)
GRPO = ("--num-rollout", 4, "--rollout-batch-size", 4, "--n-samples-per-prompt", 4, "--global-batch-size", 16)
GRPO += ("--skip-eval-before-train", "--eval-interval", 4, *CONSTANT)


@pytest.fixture
def submit(tmp_path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def submit_one(name, words=(), *, nodes=NODES[:1], **settings) -> Job:
        settings |= {"VENV": Path(sys.prefix), "LOGS": tmp_path / "logs", "RUN_DIR": tmp_path / "run"}
        # From the test's own process group and path, so that two runs of the tests do not meet.
        number = abs(hash(tmp_path)) % 10**8
        jobs.append(Job(TEMPLATES / name, words, nodes=nodes, settings=settings, folder=tmp_path, number=number))
        return jobs[-1]

    yield submit_one
    for job in jobs:
        job.clean_up()


def steps(run_dir: Path, phase: str) -> list[int]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["phase"] == phase]


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_sft_on_one_node_is_saved_requeued_and_ends_as_without(submit, start, inputs, tmp_path):
    job = submit(
        "run_qwen3_4b_sft.slurm", SFT, PRESET="tiny_sft", GPUS_PER_NODE="2",
        MODEL=inputs.model, DATA=inputs.conversations,
    )  # fmt: skip
    job.wait_for("sft 2 ")
    job.warn_of_time_limit()
    assert job.end() == 0, job.output
    assert job.num_starts == 2
    assert "saving after this step" in job.output
    assert steps(tmp_path / "run", "sft") == [1, 2, 3, 4]
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.conversations)
    straight = start(recipe("sft", *paths, "--run-dir", tmp_path / "straight", *SFT))
    assert straight.end() == 0, straight.err
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")


@pytest.mark.slow
def test_grpo_on_two_nodes_is_saved_requeued_and_ends_as_without(submit, start, inputs, tmp_path):
    job = submit(
        "run_qwen3_4b_grpo.slurm", GRPO, nodes=NODES, PRESET="tiny_math", GPUS_PER_NODE="1",
        MODEL=inputs.model, DATA=inputs.prompts, EVAL_DATA=inputs.eval_prompts,
    )  # fmt: skip
    job.wait_for("grpo 2 ")
    job.warn_of_time_limit()
    assert job.end() == 0, job.output
    assert job.num_starts == 2
    assert steps(tmp_path / "run", "grpo") == [1, 2, 3, 4]
    assert {file.name.rpartition("-")[2] for file in (tmp_path / "logs").iterdir()} == {f"{node}.log" for node in NODES}
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.prompts)
    held_out = ("--eval-prompt-data", "aime-2024", inputs.eval_prompts)
    straight = start(recipe("grpo", *paths, *held_out, "--run-dir", tmp_path / "straight", *GRPO))
    assert straight.end() == 0, straight.err
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
