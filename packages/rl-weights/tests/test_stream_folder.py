"""Folders of versions whose writers were killed."""

import fcntl
import json
import logging
import multiprocessing
import os
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch

from rl_weights import Publisher, SyncConfig, SyncError
from rl_weights.sync.transports.stream_folder import WRITER_FILE, StreamFolder
from rl_weights.testing import InMemorySink, InMemorySource


def publish_and(end: str, config: SyncConfig, has_published) -> None:
    """A process that publishes a version to a disk and then is killed, or waits to be."""
    publisher = Publisher(InMemorySource({"weight": torch.ones(100)}), [], transport=config.make_transport())
    publisher.publish(1)
    has_published.set()
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


@pytest.fixture
def other_writer():
    """Starts a process that publishes; gives the folder that it left."""
    processes: list[multiprocessing.Process] = []

    def start(end: str, config: SyncConfig) -> Path:
        context = multiprocessing.get_context("fork")  # to import torch once
        before = set(config.folder.glob("weights-*"))
        has_published = context.Event()
        process = context.Process(target=publish_and, args=(end, config, has_published))
        processes.append(process)
        process.start()
        assert has_published.wait(30)
        if end == "killed":
            process.join(30)
        [folder] = set(config.folder.glob("weights-*")) - before
        return folder

    yield start
    for process in processes:
        process.kill()
        process.join(30)


def test_the_next_writer_removes_what_killed_ones_left_and_nothing_of_those_that_live(
    other_writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = SyncConfig(transport="disk", folder=tmp_path, owner="run 1")
    living, killed = other_writer("waits", config), other_writer("killed", config)
    assert (killed / "00000001.full").is_dir()
    (tmp_path / "weights-of-a-user").mkdir()
    publisher = Publisher(
        InMemorySource({"weight": torch.ones(100)}), [sink := InMemorySink()], transport=config.make_transport()
    )
    assert killed.is_dir(), "a writer that has nothing to write looks at nothing"
    with caplog.at_level(logging.WARNING):
        for version in (1, 2):
            publisher.publish(version)
    assert sink.weight_version() == 2
    assert not killed.exists()
    assert (living / "00000001.full").is_dir()
    assert (tmp_path / "weights-of-a-user").is_dir()
    assert caplog.text.count(f"{killed}: removed; its writer, process ") == 1
    publisher.close()
    assert sorted(tmp_path.iterdir()) == sorted([living, tmp_path / "weights-of-a-user"])


@pytest.mark.parametrize("differs", ["host", "boot"])
@pytest.mark.parametrize(("owner", "is_removed"), [("run 1", True), ("run 2", False), (None, False)])
def test_a_writer_of_another_machine_is_gone_only_if_its_owner_is_here(
    other_writer, tmp_path: Path, owner: str | None, is_removed: bool, differs: str
) -> None:
    config = SyncConfig(transport="disk", folder=tmp_path, owner=None if owner is None else "run 1")
    killed = other_writer("killed", config)
    writer = json.loads((killed / WRITER_FILE).read_bytes())
    (killed / WRITER_FILE).write_text(json.dumps({**writer, differs: "another"}))
    transport = SyncConfig(transport="disk", folder=tmp_path, owner=owner).make_transport()
    Publisher(InMemorySource({"weight": torch.ones(100)}), [], transport=transport).publish(1)
    assert killed.exists() is not is_removed


def test_a_first_publish_that_the_disk_refuses_is_followed_by_a_whole_version(tmp_path: Path) -> None:
    transport = SyncConfig(transport="disk", folder=tmp_path).make_transport()
    publisher = Publisher(InMemorySource({"weight": torch.ones(100)}), [sink := InMemorySink()], transport=transport)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # less than says who writes
    try:
        with pytest.raises(SyncError, match=r"version 1 not written: .*File too large"):
            publisher.publish(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    publisher.publish(2, verify=True)
    assert sink.weight_version() == 2
    [stream] = tmp_path.iterdir()
    assert (stream / WRITER_FILE).is_file()


def test_a_folder_whose_place_is_taken_is_made_once_it_is_free(tmp_path: Path) -> None:
    folder = StreamFolder(tmp_path, "1", None)
    (folder.path / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        folder.make()
    (folder.path / "in the way").rmdir()
    folder.make()
    folder.make()
    assert not is_free(folder.path / WRITER_FILE)
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_waits_for_who_looks_whether_it_lives(tmp_path: Path) -> None:
    (tmp_path / ".weights-1").mkdir()
    folder = StreamFolder(tmp_path, "1", None)
    with (tmp_path / ".weights-1" / WRITER_FILE).open("w") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_EX)
        making = threading.Thread(target=folder.make)
        making.start()
        making.join(0.2)
        assert making.is_alive()
        assert (tmp_path / ".weights-1" / WRITER_FILE).read_bytes() == b"", "it says whose it is once it is locked"
    making.join(10)
    assert not is_free(folder.path / WRITER_FILE)
    assert json.loads((folder.path / WRITER_FILE).read_bytes())["process"] == os.getpid()
    folder.remove()


def is_free(file: Path) -> bool:
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
