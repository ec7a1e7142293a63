"""Folders into which a download was begun and not finished: what is there of it must not pass for the whole."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from rl_data.errors import DataError

PLACE = Path(".rl-data", "download")
"""In the folder: files that have not come whole, and for each unfinished download a note of those it still owes."""
_ENDING = ".unfinished"


class _Note(msgspec.Struct, frozen=True):
    name: str
    command: str
    """Which goes on with it, without the folder."""
    files: Sequence[str]


def note_unfinished(folder: Path, name: str, files: Sequence[str], *, command: str) -> None:
    """Notes that a repository of the hub is being downloaded into the folder, and the command that does it.

    Args:
        files: what has not come yet; of some there may be an older revision in the folder.

    Raises:
        OSError: if that cannot be written.
    """
    note = _place_of(folder, name)
    note.parent.mkdir(parents=True, exist_ok=True)
    half = note.with_suffix(".tmp")
    half.write_bytes(msgspec.json.encode(_Note(name=name, command=command, files=files)))
    os.replace(half, note)


def note_finished(folder: Path, name: str) -> None:
    """Takes the note away, if there is one."""
    _place_of(folder, name).unlink(missing_ok=True)


def check_finished(folder: Path, is_wanted: Callable[[Path], bool]) -> None:
    """Does nothing if no download into the folder, or into one above it, still owes it a file that is wanted.

    Args:
        is_wanted: told of a file that is owed, whether or not an older revision of it is there.

    Raises:
        DataError: naming the first such file, and the command that goes on.
    """
    whole = folder.resolve()
    for base in (whole, *whole.parents):
        for path in sorted((base / PLACE).glob(f"*{_ENDING}")):
            try:
                note = msgspec.json.decode(path.read_bytes(), type=_Note)
            except FileNotFoundError:  # finished meanwhile
                continue
            except (OSError, msgspec.MsgspecError) as error:
                raise DataError(f"{path}: not a readable note of an unfinished download: {error}") from error
            owed = [base / file for file in note.files]
            wanted = next((file for file in owed if whole in file.parents and is_wanted(file)), None)
            if wanted is not None:
                state = "is there as it was before it" if wanted.exists() else "is missing"
                raise DataError(
                    f"{folder}: the download of {note.name} was not finished, {wanted.relative_to(whole)} {state}: "
                    f"`{note.command} --to {shlex.quote(str(base))}` goes on with it"
                )


def _place_of(folder: Path, name: str) -> Path:
    return folder / PLACE / (name.replace("/", "--") + _ENDING)
