import json

import pytest
from tiny_folder import write_model

from rl_weights import CheckpointError
from rl_weights.bench import bench_conversion
from rl_weights.cli import main


def test_bench_times_both_directions_beside_copies_and_removes_what_it_made(tmp_path, capsys):
    write_model(tmp_path / "hf")
    assert main(["bench", "--hf-checkpoint", str(tmp_path / "hf"), "--work", str(tmp_path), "--json"]) == 0
    bench = json.loads(capsys.readouterr().out)
    assert bench["is_exact"] is True
    assert bench["num_bytes"] > 190_000
    for run in ("copy_hf", "to_torch_dist", "copy_torch_dist", "to_hf"):
        assert bench[run]["seconds"] > 0
        assert bench[run]["peak_bytes"] > 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_conversion_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    write_model(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"rl_weights convert .* exit code 2"):
        bench_conversion(tmp_path / "hf", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
