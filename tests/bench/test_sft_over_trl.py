import importlib.util
import json
import subprocess
import sys

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint


def run(*arguments, timeout_s=30):
    command = [sys.executable, "-m", "bench.sft_over_trl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def test_a_batch_that_does_not_divide_the_step_is_refused(tmp_path):
    done = run("--model", str(tmp_path), "--trl", "on,3")
    assert done.returncode == 2
    assert "--trl on,3: expected on or off, and a divisor of 4, such as on,1" in done.stderr


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed (dependency group bench)")
def test_both_sides_are_measured_on_a_tiny_model(tmp_path):
    make_checkpoint(tmp_path / "model", MODEL_CONFIGS["tiny"], dtype="float32")
    sizes = ["--sequence-tokens", "64", "--warmup", "2", "--steps", "2"]
    done = run("--model", str(tmp_path / "model"), "--trl", "on,2", "off,4", *sizes, timeout_s=200)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    (record,) = printed["results"]
    best = max(run["tokens_per_s"] for run in printed["details"]["trl"])
    assert record["value"] == pytest.approx(printed["details"]["ours"]["tokens_per_s"] / best, rel=1e-3)
    assert {run["attention"] for run in printed["details"]["trl"]} == {"sdpa"}
