"""Tensors that are mapped from the middle of a file."""

import io
import os
import resource

import pytest
import torch

from rl_weights.torch_dist.stored_tensor import stored_tensor


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(7, dtype=torch.bfloat16),
        torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2),
        torch.arange(24.0).reshape(6, 4)[2:4, 1:3],
        torch.tensor(3.0, dtype=torch.float64),
        torch.empty(0, 5),
    ],
)
def test_a_tensor_is_read_wherever_it_begins(tensor, tmp_path):
    content = saved(tensor)
    for start in (0, 1, 2, 4, 64, 4095, 5000):  # also where its elements lie at no multiple of their size
        (tmp_path / "file").write_bytes(b"x" * start + content + b"y" * 100)
        with (tmp_path / "file").open("rb", buffering=0) as file:
            read = stored_tensor(file, start, len(content))
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        assert read.data_ptr() % read.element_size() == 0


def test_who_writes_into_a_tensor_changes_no_file(tmp_path):
    content = saved(torch.ones(1000))
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        first, second = (stored_tensor(file, 0, len(content)) for _ in range(2))
        first.zero_()
    assert second.sum() == 1000
    assert (tmp_path / "file").read_bytes() == content


def test_a_torch_that_notes_no_place_in_the_file_reads_it(tmp_path, monkeypatch):
    def without_place(*args, load=torch.load, **settings):
        loaded = load(*args, **settings)
        loaded.untyped_storage()._checkpoint_offset = None
        return loaded

    monkeypatch.setattr(torch, "load", without_place)
    tensor = torch.arange(24.0).reshape(6, 4)[2:4, 1:3]
    content = saved(tensor)
    (tmp_path / "file").write_bytes(b"x" * 5 + content + b"y" * 100)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        assert torch.equal(stored_tensor(file, 5, len(content)), tensor)


def test_more_tensors_than_open_files_are_held(tmp_path):
    content = saved(torch.ones(1000))
    (tmp_path / "file").write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 20, limits[1]))
        try:
            held = [stored_tensor(file, 0, len(content)) for _ in range(200)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    mapped = (tmp_path / "file").resolve()
    assert all(tensor.sum() == 1000 for tensor in held)
    assert num_mappings(mapped) > 0
    last = held.pop()[10:20]
    held.clear()
    assert num_mappings(mapped) == 1
    assert last.sum() == 10
    del last
    assert num_mappings(mapped) == 0


def num_mappings(file):
    with open("/proc/self/maps") as maps:
        return sum(str(file) in line for line in maps)


class CutOff(io.FileIO):
    """A file that loses its end after it was looked at, and before it is mapped."""

    def fileno(self):
        os.truncate(self.name, 4096)
        return super().fileno()


def test_bytes_that_cannot_be_read_are_an_error_rather_than_a_signal(tmp_path):
    content = saved(torch.ones(10_000))
    (tmp_path / "file").write_bytes(content)
    with CutOff(tmp_path / "file") as file, pytest.raises(OSError, match=r"40000 bytes from \d+ on cannot be mapped: "):
        stored_tensor(file, 0, len(content))


def test_what_is_no_tensor_or_is_cut_off_is_refused(tmp_path):
    content = saved({"a": 1})
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        with pytest.raises(ValueError, match="expected a tensor, found dict"):
            stored_tensor(file, 0, len(content))
        with pytest.raises(RuntimeError, match="failed finding central directory"):
            stored_tensor(file, 0, len(content) - 1)
