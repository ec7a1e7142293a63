"""What may not be read, written or replaced is one message that names it, and why."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tiny_folder import write_model

from rl_weights import CheckpointError, convert_hf_to_torch_dist, folder_lock, verify_checkpoint
from rl_weights.cli import main

NOBODY = 65534


@pytest.fixture(scope="module")
def folder():
    """Two checkpoints, where another user may read."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        write_model(path / "hf")
        convert_hf_to_torch_dist(path / "hf", path / "megatron")
        (path / "other").mkdir()
        shutil.copytree(path / "hf", path / "other/hf")
        yield path


@contextlib.contextmanager
def unreadable(path: Path):
    """The file or folder may not be read within the block, also if root runs the tests."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize(
    "name",
    [
        "hf/config.json",
        "hf/model.safetensors",
        "megatron/latest_checkpointed_iteration.txt",
        "megatron/release/.metadata",
        "megatron/release/metadata.json",
        "megatron/release/rl_weights_manifest.json",
        "megatron/release/__0_0.distcp",
        "other",
    ],
)
def test_what_may_not_be_read_is_named(folder, capsys, name, command) -> None:
    checkpoint = folder / ("other/hf" if name == "other" else name.split("/")[0])
    with unreadable(folder / name):
        code = main([command, str(checkpoint)])
    captured = capsys.readouterr()
    if command == "inspect" and name.endswith((".distcp", "manifest.json")):
        assert code == 0  # it need not be read
        return
    assert code in (1, 2)
    assert str(folder / name) in captured.out + captured.err
    assert "Permission denied" in captured.out + captured.err


def test_one_file_that_may_not_be_read_is_one_problem_of_verify(folder) -> None:
    with unreadable(folder / "hf/model.safetensors"):
        report = verify_checkpoint(folder / "hf")
    assert report.problems == (f"{folder}/hf/model.safetensors: cannot be read: Permission denied",)


def test_a_link_is_refused_before_anything_is_converted(folder, tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(CheckpointError, match="link: is a link, which cannot be replaced; name the folder"):
        convert_hf_to_torch_dist(folder / "hf", tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_mounted_disk_is_refused_before_anything_is_converted(folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(CheckpointError, match="disk: is where a disk is mounted, which cannot be replaced"):
        convert_hf_to_torch_dist(folder / "hf", tmp_path / "disk")
    convert_hf_to_torch_dist(folder / "hf", tmp_path / "disk/megatron")


def test_a_disk_without_locks_is_written_all_the_same(folder, tmp_path, monkeypatch) -> None:
    def refuse(descriptor, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folder_lock.fcntl, "flock", refuse)
    convert_hf_to_torch_dist(folder / "hf", tmp_path / "megatron")
    assert [path.name for path in tmp_path.iterdir()] == ["megatron"]


@pytest.mark.parametrize("argv", [["inspect"], ["inspect", "--json"], ["verify"]])
def test_a_full_disk_under_standard_output_is_one_message(folder, argv) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rl_weights", *argv, str(folder / "hf")],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "rl-weights: [Errno 28] No space left on device\n")


def test_ranks_of_a_scheduler_are_not_torchruns(folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    back = [
        "--load",
        str(folder / "megatron"),
        "--hf-checkpoint",
        str(folder / "hf"),
        "--save-hf",
        str(tmp_path / "hf"),
    ]
    assert main(["convert", *back]) == 0
