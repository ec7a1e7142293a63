"""Folders that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from rl_weights.errors import CheckpointError
from rl_weights.folder_lock import lock


@contextlib.contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """An empty folder beside `target` to write into; renamed to `target` at the end if nothing was raised.

    What an interrupted run left beside is removed by the next one. On any error nothing is left.

    Raises:
        CheckpointError: if `target` holds something already, another process is writing it, or the disk refuses.
    """
    target = target.absolute()
    partial = target.parent / f".{target.name}.incomplete"
    with contextlib.ExitStack() as cleanup:
        try:
            _refuse_existing(target)
            partial.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            cleanup.callback(os.close, descriptor)
            _lock(descriptor, target)
            cleanup.callback(shutil.rmtree, partial, ignore_errors=True)
            _empty(partial)
            yield partial
            sync_folder(partial)
            _refuse_existing(target)
            partial.rename(target)
            _sync_entries(target.parent)
        except OSError as error:
            raise CheckpointError(f"{target}: not written: {error}") from error


def _refuse_existing(target: Path) -> None:
    if target.is_symlink():
        raise CheckpointError(f"{target}: is a link, which cannot be replaced; name the folder that it stands for")
    if target.is_mount():
        raise CheckpointError(f"{target}: is where a disk is mounted, which cannot be replaced; name a folder in it")
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise CheckpointError(f"{target}: exists already, and nothing is overwritten")


def _lock(descriptor: int, target: Path) -> None:
    """Holds the folder until the descriptor is closed, also by a kill; on a disk without locks nobody is kept out."""
    try:
        lock(descriptor, waits=False)
    except BlockingIOError:
        raise CheckpointError(f"{target}: another process is writing it") from None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def sync_folder(folder: Path) -> None:
    """Waits until everything in the folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_entries(path)
    _sync_entries(folder)


def _sync_entries(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
