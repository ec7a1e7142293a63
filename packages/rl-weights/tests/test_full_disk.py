"""A disk that fills up in the middle of a conversion."""

import io
import subprocess

import pytest
import torch
from tiny_folder import write_model

from rl_weights import CheckpointError, convert_hf_to_torch_dist, convert_torch_dist_to_hf, verify_checkpoint
from rl_weights.convert import Ranks
from rl_weights.torch_dist.writer import StoredPart, _append


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two models in both formats: of 0.9 MB in small tensors, and of 9 MB in some larger than any buffer."""
    folder = tmp_path_factory.mktemp("sources")
    write_model(folder / "small", num_hidden_layers=24)
    write_model(folder / "large", num_hidden_layers=1, hidden_size=512, vocab_size=2000)
    for name in ("small", "large"):
        convert_hf_to_torch_dist(folder / name, folder / f"{name}_megatron")
    return folder


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of so many kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(disk)]
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
@pytest.mark.parametrize(
    ("model", "small_disk"),
    [("small", 512), ("large", 512), ("large", 3000), ("large", 4600), ("large", 6000), ("large", 7500)],
    indirect=["small_disk"],
)
def test_a_full_disk_is_named_and_leaves_what_was_there(sources, small_disk, model, direction, target):
    write_model(small_disk / "mine", num_hidden_layers=1)
    (small_disk / "empty").mkdir()
    before = sorted(path.name for path in small_disk.iterdir())
    out = small_disk / target

    def convert():
        if direction == "to_torch_dist":
            convert_hf_to_torch_dist(sources / model, out, ranks=Ranks())
        else:
            convert_torch_dist_to_hf(sources / f"{model}_megatron", sources / model, out)

    with pytest.raises(CheckpointError, match=r"not written: .*No space left on device"):
        convert()
    assert sorted(path.name for path in small_disk.iterdir()) == before
    assert not list((small_disk / "empty").iterdir())
    assert verify_checkpoint(small_disk / "mine").is_whole


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_breaks_off_a_write_is_raised_and_not_what_follows_from_it(raised):
    class Breaking(io.BytesIO):
        def write(self, content):
            if self.tell() > 2**20:
                raise raised
            return super().write(content)

    part = StoredPart(key="key", dtype="float32", shape=(2**20,), offset=(0,), size=(2**20,))
    with pytest.raises(type(raised)) as caught:
        _append(Breaking(), "file", part, torch.zeros(2**20))
    assert caught.value is raised
