"""Conversion by several ranks: each writes its own part, and what fails on one fails on all."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file, save_file
from tiny_folder import write_model

from rl_weights import (
    CheckpointError,
    ParallelLayout,
    TorchDistCheckpoint,
    convert_hf_to_torch_dist,
    convert_torch_dist_to_hf,
    diff_checkpoints,
    inspect_checkpoint,
    verify_checkpoint,
)
from rl_weights.convert import Ranks


class ThreadRanks(Ranks):
    """Ranks that are threads of one process."""

    def __init__(self, rank, size, barrier, board):
        self.rank, self.size, self._barrier, self._board = rank, size, barrier, board

    def exchange(self, content):
        self._board[self.rank] = content
        self._barrier.wait(60)
        contents = [self._board[rank] for rank in range(self.size)]
        self._barrier.wait(60)
        return contents


def convert_together(size, source, target, **settings):
    """The outcome of every rank: a report or the error."""
    barrier, board = threading.Barrier(size), {}

    def convert(rank):
        try:
            ranks = ThreadRanks(rank, size, barrier, board)
            return convert_hf_to_torch_dist(source, target, ranks=ranks, **settings)
        except CheckpointError as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(convert, range(size)))


def files_of(checkpoint, part_of_name):
    names = [name for name in checkpoint.specs if part_of_name in name]
    return {file for name in names for file in checkpoint.file_names(name)}


def test_the_command_under_torchrun_writes_each_ranks_part_in_a_file_of_its_own(tmp_path):
    write_model(tmp_path / "hf", tie_word_embeddings=True)
    command = """
        -m torch.distributed.run --standalone --nproc_per_node=4 -m rl_weights convert
        --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --hf-checkpoint hf
        --make-vocab-size-divisible-by 1 --save out
    """
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("out: 34 tensors, 182.4 kB in ") == 1
    assert sorted(path.name for path in (tmp_path / "out/release").glob("*.distcp")) == [
        f"__{rank}_0.distcp" for rank in range(4)
    ]
    checkpoint = TorchDistCheckpoint(tmp_path / "out")
    assert files_of(checkpoint, "layers.0.") == files_of(checkpoint, "embedding") == {"__0_0.distcp", "__1_0.distcp"}
    assert files_of(checkpoint, "layers.3.") == {"__2_0.distcp", "__3_0.distcp"}
    assert verify_checkpoint(tmp_path / "out").is_whole
    convert_torch_dist_to_hf(tmp_path / "out", tmp_path / "hf", tmp_path / "again")
    assert diff_checkpoints(tmp_path / "hf", tmp_path / "again").is_equal


@pytest.mark.parametrize(("family", "size", "layout"), [
    ("qwen3", 2, {"tensor": 2}),
    ("qwen3", 3, {"pipeline": 3, "first_stage_layers": 1, "last_stage_layers": 1}),
    ("qwen2", 4, {}),  # four copies of the model, of which each rank writes a share
    ("qwen3_moe", 4, {"tensor": 2, "expert": 4, "expert_tensor": 1}),
    ("qwen3_moe", 4, {"tensor": 2, "expert": 2}),
    ("qwen3_moe", 8, {"tensor": 2, "pipeline": 2, "expert": 2, "expert_tensor": 2}),
])  # fmt: skip
def test_ranks_of_any_layout_write_the_same_model_as_one_process(tmp_path, family, size, layout):
    write_model(tmp_path / "hf", family=family)
    padding = {"make_vocab_size_divisible_by": 4 // layout.get("tensor", 1)}
    reports = convert_together(size, tmp_path / "hf", tmp_path / "many", layout=ParallelLayout(**layout), **padding)
    alone = convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "one", make_vocab_size_divisible_by=4)
    assert {(report.num_tensors, report.num_bytes) for report in reports} == {(alone.num_tensors, alone.num_bytes)}
    assert diff_checkpoints(tmp_path / "one", tmp_path / "many").is_equal
    assert verify_checkpoint(tmp_path / "many").is_whole
    sizes = [path.stat().st_size for path in (tmp_path / "many/release").glob("*.distcp")]
    assert len(sizes) == size
    found = inspect_checkpoint(tmp_path / "many").layout
    assert found is not None
    assert (found.tensor, found.num_files) == (layout.get("tensor", 1), size)
    if family == "qwen3":
        assert found.pipeline == layout.get("pipeline", 1)


def test_what_fails_on_one_rank_fails_on_all_and_leaves_nothing(tmp_path):
    write_model(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["model.layers.3.mlp.down_proj.weight"][0, -1] = float("nan")
    save_file(tensors, tmp_path / "hf/model.safetensors")
    outcomes = convert_together(
        4, tmp_path / "hf", tmp_path / "out", layout=ParallelLayout(tensor=2, pipeline=2), require_finite=True
    )
    messages = [str(outcome) for outcome in outcomes]
    assert all("model.layers.3.mlp.down_proj.weight: NaN or infinite values: 1" in message for message in messages)
    assert messages[0].startswith("rank 2: ")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_what_the_disk_refuses_on_the_first_rank_is_told_to_all():
    barrier, board = threading.Barrier(2), {}

    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/.metadata")

    def be(rank):
        try:
            return ThreadRanks(rank, 2, barrier, board).on_first(refuse)
        except (CheckpointError, OSError) as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(be, range(2))
    assert isinstance(first, OSError)
    assert isinstance(second, CheckpointError)
    assert str(second) == "rank 0: [Errno 28] No space left on device: 'out/.metadata'"


def test_a_folder_that_is_taken_is_refused_on_every_rank(tmp_path):
    write_model(tmp_path / "hf")
    shutil.copytree(tmp_path / "hf", tmp_path / "out")
    outcomes = convert_together(2, tmp_path / "hf", tmp_path / "out", layout=ParallelLayout(tensor=2))
    assert all("exists already" in str(outcome) for outcome in outcomes)


@pytest.mark.parametrize(("size", "layout"), [(3, {"tensor": 2}), (2, {"tensor": 2, "pipeline": 2})])
def test_ranks_that_make_no_whole_copies_are_refused(tmp_path, size, layout):
    write_model(tmp_path / "hf")
    outcomes = convert_together(size, tmp_path / "hf", tmp_path / "out", layout=ParallelLayout(**layout))
    assert all(f"{size} ranks cannot be laid out with TP 2" in str(outcome) for outcome in outcomes)
