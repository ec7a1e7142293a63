"""The whole job, once, as `nox -s quickstart` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.arguments import ForeignParsers
from recipes.grpo.config import read_job
from recipes.quickstart import PROGRAM

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run_dir = tmp_path_factory.mktemp("runs") / "quickstart"
    command = [sys.executable, *PROGRAM.split()[1:], "--run-dir", str(run_dir), "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return run_dir, done.stdout


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_policy_learns_and_both_sides_agree(finished: tuple[Path, str]) -> None:
    summary = json.loads((finished[0] / "summary.json").read_text())
    assert summary["reward_last"] > 0.8
    assert summary["reward_last"] >= 2 * summary["reward_first"] > 0
    assert summary["accuracy_before"] > 0, "supervised training taught it to answer some"
    assert summary["accuracy_after"] > summary["accuracy_before"] + 0.3
    assert summary["logprob_abs_diff_max"] < 1e-5
    assert summary["seed"] == 0


def test_metrics_and_samples_have_every_step_once(finished: tuple[Path, str]) -> None:
    run_dir = finished[0]
    records = read_lines(run_dir / "metrics.jsonl")
    num_steps = json.loads((run_dir / "summary.json").read_text())["steps"]
    assert [record["step"] for record in records if record["phase"] == "grpo"] == list(range(1, num_steps + 1))
    samples = read_lines(run_dir / "samples.jsonl")
    assert {sample["metadata"]["step"] for sample in samples} == set(range(1, num_steps + 1))
    assert all(sample["spans"][0][2] == sample["metadata"]["step"] for sample in samples)


def test_the_terminal_shows_each_step_and_ends_with_the_result(finished: tuple[Path, str]) -> None:
    run_dir, output = finished
    lines = output.splitlines()
    assert any(line.startswith("grpo 1 ") and "logprob diff" in line for line in lines)
    assert "the round trip is exact" in output
    assert lines[-1].startswith("reward ")
    assert str(run_dir / "report.html") in lines[-1]


def test_transformers_loads_the_final_model_and_generates_an_answer(finished: tuple[Path, str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished[0] / "model")
    model = AutoModelForCausalLM.from_pretrained(finished[0] / "model")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 21 + 34?"}], add_generation_prompt=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    assert "21 + 34 = " in tokenizer.decode(tokens[0])
    assert "Answer: " in tokenizer.decode(tokens[0])


def test_the_saved_configuration_is_that_of_what_ran(
    finished: tuple[Path, str], parsers: ForeignParsers, tmp_path: Path
) -> None:
    run_dir = finished[0]
    words = ["--config", str(run_dir / "config.yaml"), "--run-dir", str(tmp_path / "again")]
    job = read_job(words, parsers)
    assert job.algorithm.advantage_estimator == "grpo"
    assert job.num_rollouts == json.loads((run_dir / "summary.json").read_text())["steps"]
    assert job.run.load == run_dir / "torch_dist"
    assert (run_dir / "sft" / "config.yaml").exists()


def test_a_second_quickstart_in_the_same_folder_is_refused(finished: tuple[Path, str]) -> None:
    run_dir = finished[0]
    before = (run_dir / "summary.json").read_bytes()
    command = [sys.executable, *PROGRAM.split()[1:], "--run-dir", str(run_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert str(run_dir) in done.stderr
    assert (run_dir / "summary.json").read_bytes() == before
