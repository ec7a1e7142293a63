import json
import subprocess
import sys

import pytest


@pytest.mark.bench
def test_opening_takes_no_longer_and_no_more_memory_for_more_rows(tmp_path):
    command = [sys.executable, "-m", "bench.data_opening", "--num-rows", "20000", "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    values = {record["name"]: record["value"] for record in printed["results"]}
    assert values["data_opening_seconds"] < 1
    assert values["data_opening_growth_mib"] < 2  # processes differ by about 0.1 MiB
    assert printed["details"]["large"]["num_rows"] == 20_000
    assert not list(tmp_path.iterdir())
