import json
import subprocess
import sys

import numpy as np
import pytest

from bench.grpo_step import _arrivals, _floor, _growth, _records, nats_per_token, write_prompts
from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint
from rl_data.testing import make_sample
from rl_data.wire import append_samples


def test_growth_compares_the_last_third_with_the_third_before():
    assert _growth([9.0, 9.0, 1.0, 2.0, 3.0, 4.0]) == 2.0
    assert _growth([5.0]) == 0.0


def test_growth_leaves_out_training_whose_memory_follows_the_samples():
    steps = [
        {
            "seconds": {"switch": 0.1},
            "logprob_abs_diff": 0.0,
            "memory_gib": {"train_device": float(number), "publish_device": number / 100, "publish_reserved_peak": 9.0},
        }
        for number in range(30)
    ]
    records = {record.name: record.value for record in _records(steps, [])}
    assert records["memory_growth_gib"] == pytest.approx(0.09)


def test_a_step_lasts_from_one_line_to_the_next():
    steps = [{"arrived_s": 10.0}, {"arrived_s": 16.0}, {"arrived_s": 21.0}]
    floors = {"generation": {"2": 2.0, "3": 2.0}, "training": {"2": 3.0, "3": 2.0}}
    assert [row["step_over_floor"] for row in _floor(steps, floors)] == [6 / 5, 5 / 4]
    assert _floor(steps, {"training": floors["training"]}) == []


def test_lines_are_waited_for_until_the_process_ends(tmp_path):
    file = tmp_path / "metrics.jsonl"
    program = f"import time\nfor _ in range(2):\n    open({str(file)!r}, 'a').write('line\\n'); time.sleep(1)"
    process = subprocess.Popen([sys.executable, "-c", program])
    first, second = _arrivals(file, process, 3, 20.0)
    # A second apart. A busy machine notes either of them later, seldom by most of a second.
    assert 0.2 < second - first < 10


def test_nats_a_token_are_the_mean_over_the_drawn_tokens_of_a_step(tmp_path):
    file = tmp_path / "samples.jsonl"
    samples = [
        make_sample(response_length=length, metadata={"step": step}) for step, length in ((1, 2), (1, 5), (2, 3))
    ]
    append_samples(file, samples)
    with file.open("a") as out:
        out.write('{"the start of')
    drawn = np.concatenate([sample.rollout_logprobs[sample.prompt_length :] for sample in samples])
    assert nats_per_token(file) == pytest.approx({1: -drawn[:7].mean(), 2: -drawn[7:].mean()})


def test_prompts_are_rows_of_the_dapo_schema(tmp_path):
    rows = [json.loads(line) for line in write_prompts(tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == {"0", "1"}
    assert len({row["prompt"][0]["content"] for row in rows}) == len(rows)


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_tiny_run_is_measured_whole(tmp_path):
    make_checkpoint(tmp_path / "model", MODEL_CONFIGS["tiny"], dtype="float32")
    command = [sys.executable, "-m", "bench.grpo_step", "--model", str(tmp_path / "model"), "--preset", "tiny_math"]
    command += ["--work", str(tmp_path / "work"), "--num-steps", "3", "--floor-steps", "1"]
    command += ["--prompts", "2", "--samples", "4", "--response-tokens", "48", "--", "--actor-num-gpus-per-node", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    values = {record["name"]: record["value"] for record in printed["results"]}
    assert sorted(values) == ["logprob_abs_diff", "step_over_floor", "switch_seconds"]
    assert 0 < values["logprob_abs_diff"] < 1e-5
    assert [step["step"] for step in printed["details"]["steps"]] == [1, 2, 3]
    assert any(step["grad_norm"] > 0 for step in printed["details"]["steps"])
    (floor,) = printed["details"]["floor"]
    assert floor["step_s"] > floor["bare_training_s"] > 0
