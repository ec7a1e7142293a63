import json

import pytest
from tiny_folder import quantise, write_model

from rl_weights import CheckpointError
from rl_weights.bench import ConversionBench, Copied, Measured, bench_conversion
from rl_weights.cli import _print_bench, main


def test_bench_times_both_directions_beside_copies_and_removes_what_it_made(tmp_path, capsys):
    write_model(tmp_path / "hf")
    quantise(tmp_path / "hf")  # what comes back is compared with what float8 stands for
    assert main(["bench", "--hf-checkpoint", str(tmp_path / "hf"), "--work", str(tmp_path), "--json"]) == 0
    bench = json.loads(capsys.readouterr().out)
    assert bench["is_exact"] is True
    assert bench["num_bytes"] > 60_000
    for run in ("to_torch_dist", "to_hf"):
        assert bench[run]["seconds"] > 0
        assert bench[run]["peak_bytes"] > 100_000
    for copy in ("copy_hf", "copy_torch_dist"):
        assert bench[copy]["flushed_seconds"] > bench[copy]["seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_bench_prints_the_ratios_over_copies_with_and_without_their_flush(capsys):
    copy = Copied(seconds=2.0, flushed_seconds=4.0)
    _print_bench("m", ConversionBench(
        num_bytes=10**9, is_exact=True, copy_hf=copy, copy_torch_dist=copy,
        to_torch_dist=Measured(seconds=5.0, peak_bytes=10**8), to_hf=Measured(seconds=3.0, peak_bytes=10**8),
    ))  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "HF -> torch_dist: 5.0 s, flushed to the disk; peak memory 100.0 MB"
    assert lines[2] == "  1.25 x cp -r and its flush (4.0 s), 2.50 x cp -r alone (2.0 s)"
    assert lines[4] == "  0.75 x cp -r and its flush (4.0 s), 1.50 x cp -r alone (2.0 s)"
    assert lines[-1] == "the model that came back is equal to the bit"


def test_what_cannot_be_read_or_written_is_one_message_before_anything_is_copied(tmp_path, capsys):
    write_model(tmp_path / "hf")
    write_model(tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").write_bytes(b"damaged")
    for model, work, message in (
        ("hf", "nowhere", "nowhere: expected a folder to write in"),
        ("hf", "hf/config.json", "config.json: expected a folder to write in"),
        ("nowhere", ".", "nowhere/config.json: no such file"),
        ("damaged", ".", "damaged/model.safetensors: truncated or damaged"),
    ):
        assert main(["bench", "--hf-checkpoint", str(tmp_path / model), "--work", str(tmp_path / work)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err


def test_a_conversion_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    write_model(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"rl_weights convert .* exit code 2"):
        bench_conversion(tmp_path / "hf", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
