import json

import pytest

from bench import convert_over_copy
from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint


@pytest.mark.bench
def test_both_directions_and_the_memory_are_recorded(tmp_path, capsys, monkeypatch):
    make_checkpoint(tmp_path / "model", MODEL_CONFIGS["tiny"])
    words = ["--model", str(tmp_path / "model"), "--work", str(tmp_path), "--out", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["convert_over_copy", *words])
    assert convert_over_copy.main() == 0
    names = [record["name"] for record in json.loads(capsys.readouterr().out)["results"]]
    assert names == [
        "convert_to_torch_dist_over_copy",
        "convert_to_hf_over_copy",
        "convert_to_torch_dist_over_flushed_copy",
        "convert_to_hf_over_flushed_copy",
        "convert_peak_gib",
    ]
    assert sorted(path.stem for path in (tmp_path / "results").iterdir()) == sorted(names)
