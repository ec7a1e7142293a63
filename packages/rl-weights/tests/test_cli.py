import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_folder import write_model

from rl_weights.cli import main


def run(capsys, *argv):
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_way_there_and_back(tmp_path, capsys):
    write_model(tmp_path / "hf")
    there = ["--hf-checkpoint", tmp_path / "hf", "--save", tmp_path / "megatron"]
    sizes = [
        "--tensor-model-parallel-size",
        2,
        "--pipeline-model-parallel-size",
        2,
        "--make-vocab-size-divisible-by",
        1,
    ]
    code, out, _ = run(capsys, "convert", *there, *sizes)
    assert code == 0
    assert out.startswith(f"{tmp_path / 'megatron'}: 35 tensors, 191.1 kB in ")
    back = ["--load", tmp_path / "megatron", "--hf-checkpoint", tmp_path / "hf", "--save-hf", tmp_path / "again"]
    code, out, _ = run(capsys, "convert", *back, "--max-shard-size", "0.05MB")
    assert code == 0
    assert "47 tensors, 190.8 kB" in out
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 2
    assert run(capsys, "diff", tmp_path / "hf", tmp_path / "again") == (0, "47 tensors equal, 0 not\n", "")
    code, out, _ = run(capsys, "verify", tmp_path / "again")
    assert (code, out.split(": ", 1)[1]) == (0, "47 tensors, 190.8 kB, checksums compared: whole\n")


def test_diff_says_which_tensors_differ_and_exits_with_1(tmp_path, capsys):
    write_model(tmp_path / "one", seed=1)
    write_model(tmp_path / "two", seed=2)
    code, out, _ = run(capsys, "diff", tmp_path / "one", tmp_path / "two")
    assert code == 1
    assert out.splitlines()[-1] == "0 tensors equal, 47 not"
    assert "model.norm.weight: values, max " in out


def test_verify_exits_with_1_for_what_is_not_whole(tmp_path, capsys):
    write_model(tmp_path / "hf")
    run(capsys, "convert", "--hf-checkpoint", tmp_path / "hf", "--save", tmp_path / "megatron")
    file = tmp_path / "megatron/release/__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-5000])
    code, out, _ = run(capsys, "verify", tmp_path / "megatron")
    assert code == 1
    assert "__0_0.distcp: truncated" in out
    assert out.rstrip().endswith("1 problem")


def test_inspect_prints_a_table_or_json(tmp_path, capsys):
    write_model(tmp_path / "hf")
    code, out, _ = run(capsys, "inspect", tmp_path / "hf")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["name", "dtype", "shape", "bytes", "parts"]
    assert len(lines) == 49
    assert lines[-1].endswith(
        "hf, Qwen3ForCausalLM, 47,712 parameters in 190.8 kB, other state 0 bytes, without checksums"
    )
    code, out, _ = run(capsys, "inspect", tmp_path / "hf", "--json")
    assert json.loads(out)["num_parameters"] == 47_712


def test_inspect_shows_how_a_torch_dist_checkpoint_is_cut(tmp_path, capsys):
    write_model(tmp_path / "hf")
    words = ["--hf-checkpoint", tmp_path / "hf", "--save", tmp_path / "megatron", "--tensor-model-parallel-size", 2]
    run(capsys, "convert", *words)
    code, out, _ = run(capsys, "inspect", tmp_path / "megatron")
    assert code == 0
    assert "torch_dist, release, TP 2 x PP 1 x EP 1 in 1 file, 59,808 parameters" in out.splitlines()[-1]
    code, out, _ = run(capsys, "inspect", tmp_path / "megatron", "--json")
    assert json.loads(out)["layout"] == {"tensor": 2, "pipeline": 1, "expert": 1, "num_files": 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_rules_headers_and_manifests_of_a_model_folder_are_read_without_torch(tmp_path, dtype):
    write_model(tmp_path / "hf", dtype=dtype)
    program = """
import sys
from pathlib import Path
from rl_weights import HFCheckpoint, read_manifest
from rl_weights.cli import main
from rl_weights.rules import check_covered, rules_for
checkpoint = HFCheckpoint(Path(sys.argv[1]))
check_covered(rules_for(checkpoint.config), checkpoint.specs, "here")
assert read_manifest(checkpoint.path) is None
assert main(["inspect", sys.argv[1]]) == 0
assert "torch" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(tmp_path / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(dtype).removeprefix("torch.") in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "OUT", "--load", "X"], "--load: has no meaning with --save"),
        (["--save", "OUT", "--max-shard-size", "1GB"], "--max-shard-size: has no meaning with --save"),
        (["--save-hf", "OUT"], "--load: expected with --save-hf"),
        (
            ["--save-hf", "OUT", "--load", "X", "--tensor-model-parallel-size", "2"],
            "--tensor-model-parallel-size: has no",
        ),
        (
            ["--save-hf", "OUT", "--load", "X", "--max-shard-size", "big"],
            "--max-shard-size: expected a number with a unit",
        ),
        (["--save", "OUT", "--pipeline-model-parallel-size", "3"], "4 layers do not divide over 3 pipeline stages"),
        (["--save-hf", "OUT", "--load", "X"], "X/.metadata: no such file"),
    ],
)
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "hf")
    code, out, err = run(capsys, "convert", "--hf-checkpoint", "hf", *words)
    assert (code, out) == (2, "")
    assert err.startswith("rl-weights: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hf-chekpoint", "hf", "--save", "OUT"], "unknown flag --hf-chekpoint; did you mean --hf-checkpoint?"),
        (
            ["--hf-checkpoint", "hf", "--save", "OUT", "--tensor-model=2"],
            "unknown flag --tensor-model; did you mean --tensor-model-parallel-size?",
        ),
        (["--hf-checkpoint", "hf", "--sav", "OUT"], "unknown flag --sav; did you mean --save or --save-hf?"),
        (["--qqq"], "unknown flag --qqq\n"),
    ],
)
def test_a_flag_that_is_misspelt_or_shortened_is_refused_with_the_nearest(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["convert", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_no_direction_or_two_are_usage_errors(capsys):
    for words in ([], ["--save", "a", "--save-hf", "b"]):
        with pytest.raises(SystemExit) as caught:
            main(["convert", "--hf-checkpoint", "hf", *words])
        assert caught.value.code == 2
        assert "--save" in capsys.readouterr().err


def test_the_package_runs_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rl_weights", "inspect", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"rl-weights: {tmp_path}: neither a model folder")
