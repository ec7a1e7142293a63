"""A disk that fills up in the middle of a conversion."""

import subprocess

import pytest
from tiny_folder import write_model

from rl_weights import CheckpointError, convert_hf_to_torch_dist, convert_torch_dist_to_hf, verify_checkpoint
from rl_weights.convert import Ranks


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A model of some 0.9 MB in both formats."""
    folder = tmp_path_factory.mktemp("sources")
    write_model(folder / "hf", num_hidden_layers=24)
    convert_hf_to_torch_dist(folder / "hf", folder / "megatron")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], timeout=30, check=True)


@pytest.mark.parametrize("target", ["empty", "new"])
@pytest.mark.parametrize("direction", ["to_torch_dist", "to_hf"])
def test_a_full_disk_is_named_and_leaves_what_was_there(sources, small_disk, direction, target):
    write_model(small_disk / "mine", num_hidden_layers=1)
    (small_disk / "empty").mkdir()
    before = sorted(path.name for path in small_disk.iterdir())
    out = small_disk / target

    def convert():
        if direction == "to_torch_dist":
            convert_hf_to_torch_dist(sources / "hf", out, ranks=Ranks())
        else:
            convert_torch_dist_to_hf(sources / "megatron", sources / "hf", out)

    with pytest.raises(CheckpointError, match=r"not written: .*No space left on device"):
        convert()
    assert sorted(path.name for path in small_disk.iterdir()) == before
    assert not list((small_disk / "empty").iterdir())
    assert verify_checkpoint(small_disk / "mine").is_whole
