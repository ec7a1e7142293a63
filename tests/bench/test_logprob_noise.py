import json
import math
import subprocess
import sys

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint
from rl_data.testing import make_sample
from rl_data.wire import append_samples


@pytest.mark.bench
@pytest.mark.slow
def test_a_trainer_in_float32_is_at_the_reference_and_bf16_is_not(tmp_path):
    model = tmp_path / "model"
    make_checkpoint(model, MODEL_CONFIGS["tiny"], dtype="float32", std=0.2)
    lengths = (32, 16, 23)
    samples = [
        make_sample(index=index, prompt_length=8, response_length=length, metadata={"step": 1})
        for index, length in enumerate(lengths)
    ]
    append_samples(tmp_path / "samples.jsonl", samples)
    command = [sys.executable, "-m", "bench.logprob_noise", "--model", str(model)]
    done = subprocess.run(
        [*command, "--samples", str(tmp_path / "samples.jsonl")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    details = json.loads(done.stdout)["details"]
    pairs = {name: pair["mean_abs"] for name, pair in details["pairs"].items()}
    assert details["num_tokens"] == sum(lengths)
    # Two programs in float32 that sum in other orders.
    assert pairs["trainer - reference"] < 2e-5
    assert pairs["plain_bf16 - reference"] > 100 * pairs["trainer - reference"]
    assert all(math.isfinite(value) for value in pairs.values())
