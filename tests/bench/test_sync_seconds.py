import json
import statistics
import subprocess
import sys

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint


@pytest.mark.bench
@pytest.mark.slow
def test_every_bucket_size_is_measured_and_the_weights_arrive(tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 768}
    make_checkpoint(tmp_path / "model", {**MODEL_CONFIGS["tiny"], **sizes}, dtype="float32")
    command = [sys.executable, "-m", "bench.sync_seconds", "--model", str(tmp_path / "model")]
    command += ["--bucket-mib", "1", "8", "--publishes", "3", "--response-tokens", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    (record,) = printed["results"]
    small, large = printed["details"]["by_bucket_size"]
    assert small["num_buckets"] > large["num_buckets"] == 1
    assert small["num_bytes"] == large["num_bytes"] > 2**20
    medians = [statistics.median(one["seconds"][2:]) for one in (small, large)]
    assert record["value"] == pytest.approx(min(medians), rel=0.01)
    checks = printed["details"]["checks"]
    assert checks["num_tensors_verified"] == small["num_tensors"]
    # Both compute in float32, in other orders of summation.
    assert checks["logprob_abs_diff"] < 1e-5
