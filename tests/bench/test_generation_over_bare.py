import json
import subprocess
import sys

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_side_after_the_other_is_measured(tmp_path):
    make_checkpoint(tmp_path / "model", MODEL_CONFIGS["tiny"], dtype="float32")
    command = [sys.executable, "-m", "bench.generation_over_bare", "--model", str(tmp_path / "model"), "--in-turn"]
    command += ["--num-prompts", "2", "--samples-per-prompt", "2", "--response-tokens", "8", "--rounds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    (record,) = printed["results"]
    medians = printed["details"]["seconds_median"]
    assert record["value"] == pytest.approx(medians["bare"] / medians["ours"], rel=0.01)
    assert printed["details"]["num_requests"] == 4
