"""Files written past the system's cache hold what was written, on every kind of disk."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_weights import streamed_file
from rl_weights.streamed_file import StreamedFile

BLOCK = 2**13
SIZES = (0, 1, 511, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 6 * BLOCK + 4096)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(streamed_file, "_BLOCK_BYTES", BLOCK)


@pytest.fixture
def refusing(monkeypatch):
    """Makes every `os.open` of a file to be written directly fail, as on file systems that cannot do it."""
    real = os.open

    def refuse(path, flags, *rest, **named):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(streamed_file.os, "open", refuse)


def some_bytes(number: int) -> bytes:
    return np.random.default_rng(number).bytes(number)


def write(path: Path, pieces) -> None:
    with StreamedFile(path) as stream:
        for piece in pieces:
            before = stream.tell()
            assert stream.write(piece) == len(piece)
            assert stream.tell() == before + len(piece)


def blocks(number: int, taken: list[int]):
    """Blocks of bytes, noted as each is asked for; then a failure of who makes them."""
    for index in range(number):
        taken.append(index)
        yield some_bytes(BLOCK)
    raise RuntimeError("elsewhere")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(SIZES), max_size=6))
def test_a_file_holds_all_pieces_in_their_order(tmp_path_factory, sizes) -> None:
    path = tmp_path_factory.mktemp("streamed") / "file"
    pieces = [some_bytes(size) for size in sizes]
    write(path, pieces)
    assert path.read_bytes() == b"".join(pieces)


def test_what_was_there_is_overwritten(tmp_path) -> None:
    (tmp_path / "file").write_bytes(some_bytes(3 * BLOCK))
    write(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_system_that_refuses_direct_writes_gets_others(tmp_path, refusing) -> None:
    write(tmp_path / "file", [content := some_bytes(6 * BLOCK + 5)])
    assert (tmp_path / "file").read_bytes() == content


def test_a_disk_that_refuses_a_direct_write_gets_another(tmp_path, monkeypatch) -> None:
    real, was_direct = os.pwrite, []

    def refuse_first(descriptor, block, start):
        was_direct.append(bool(os.O_DIRECT & streamed_file.fcntl.fcntl(descriptor, streamed_file.fcntl.F_GETFL)))
        if was_direct[-1]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, block, start)

    monkeypatch.setattr(streamed_file.os, "pwrite", refuse_first)
    write(tmp_path / "file", [content := some_bytes(3 * BLOCK)])
    assert (tmp_path / "file").read_bytes() == content
    assert was_direct.count(True) <= 1 < was_direct.count(False)


def test_a_disk_that_takes_blocks_in_parts_gets_all_of_them(tmp_path, monkeypatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(streamed_file.os, "pwrite", lambda to, block, start: real(to, block[:1000], start))
    write(tmp_path / "file", [content := some_bytes(5 * BLOCK + 17)])
    assert (tmp_path / "file").read_bytes() == content


def test_a_disk_that_fails_is_an_error_within_four_blocks(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(streamed_file.os, "pwrite", fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", [b"a little"])
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", blocks(40, taken := []))
    assert len(taken) <= 4


def test_descriptors_end_with_an_error(tmp_path) -> None:
    num_before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="elsewhere"):
            write(tmp_path / "file", blocks(2, []))
    with pytest.raises(FileNotFoundError, match="missing"):
        StreamedFile(tmp_path / "missing" / "file")
    assert len(os.listdir("/proc/self/fd")) == num_before
