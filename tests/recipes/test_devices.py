"""A run says where it is, and does not take CPUs where there is a GPU that does not work."""

import pytest

from recipes.devices import check_gpus, where_they_run
from recipes.errors import UsageError


@pytest.mark.parametrize(
    ("placement", "line"),
    [
        ({"num_ranks": 1, "num_engines": 1}, "no GPU: 1 trainer rank and 1 engine run on CPUs"),
        ({"num_ranks": 1, "num_engines": 0}, "no GPU: 1 trainer rank runs on CPUs"),
        ({"num_ranks": 0, "num_engines": 2}, "no GPU: 2 engines run on CPUs"),
        ({"num_ranks": 4, "num_engines": 2, "gpus_per_engine": 2, "has_gpus": True},
         "4 trainer ranks and 2 engines have 8 GPUs"),
        ({"num_ranks": 4, "num_engines": 2, "gpus_per_engine": 2, "has_gpus": True, "is_shared": True},
         "4 trainer ranks and 2 engines share 4 GPUs"),
        ({"num_ranks": 1, "num_engines": 0, "has_gpus": True}, "1 trainer rank has 1 GPU"),
    ],
)  # fmt: skip
def test_a_run_says_in_one_line_where_ranks_and_engines_are(placement, line):
    assert where_they_run(**{"has_gpus": False, "is_shared": False, **placement}) == line


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without a GPU: a folder of devices and one of programs, both empty."""
    for name in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_machine_without_a_gpu_runs_on_cpus(bare):
    (bare / "nvidiactl").touch()
    check_gpus(has_gpus=False, device_folder=bare)


def test_a_gpu_of_which_ray_knows_nothing_is_refused_unless_it_is_hidden(bare, monkeypatch):
    (bare / "nvidia0").touch()
    with pytest.raises(UsageError, match=r"there is a GPU \(.*/nvidia0\), but Ray finds none .*CUDA_VISIBLE_DEVICES"):
        check_gpus(has_gpus=False, device_folder=bare)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_gpus(has_gpus=False, device_folder=bare)


@pytest.mark.parametrize(("answer", "is_found"), [("echo GPU 0: NVIDIA H200", True), ("exit 9", False)])
def test_nvidia_smi_is_asked_where_there_is_no_device(bare, answer, is_found):
    program = bare / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    if not is_found:
        check_gpus(has_gpus=False, device_folder=bare)
        return
    with pytest.raises(UsageError, match="nvidia-smi: GPU 0: NVIDIA H200"):
        check_gpus(has_gpus=False, device_folder=bare)


def test_a_gpu_that_torch_cannot_use_is_refused(bare):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use the GPU of this machine")
    with pytest.raises(UsageError, match=r"Ray finds a GPU, but torch .* cannot use it: built for CUDA"):
        check_gpus(has_gpus=True, device_folder=bare)
