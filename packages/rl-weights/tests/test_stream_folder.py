"""Folders of versions whose writers were killed."""

import json
import logging
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from rl_weights import Publisher, SyncConfig
from rl_weights.sync.transports.stream_folder import WRITER_FILE
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


@pytest.mark.parametrize(("owner", "is_removed"), [("run 1", True), ("run 2", False), (None, False)])
def test_a_writer_of_another_machine_is_gone_only_if_its_owner_is_here(
    other_writer, tmp_path: Path, owner: str | None, is_removed: bool
) -> None:
    config = SyncConfig(transport="disk", folder=tmp_path, owner=None if owner is None else "run 1")
    killed = other_writer("killed", config)
    writer = json.loads((killed / WRITER_FILE).read_bytes())
    (killed / WRITER_FILE).write_text(json.dumps({**writer, "host": "another"}))
    transport = SyncConfig(transport="disk", folder=tmp_path, owner=owner).make_transport()
    Publisher(InMemorySource({"weight": torch.ones(100)}), [], transport=transport).publish(1)
    assert killed.exists() is not is_removed
