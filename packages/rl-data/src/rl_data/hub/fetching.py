"""Fetching one file of the hub: from where an earlier try ended, and checked before it takes its place."""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.hub.catalog import RepoType
from rl_data.hub.errors import hub_errors
from rl_data.hub.files import HubFile
from rl_data.rows.unfinished import PLACE, note_finished, note_unfinished

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 22


class Fetcher:
    """Fetches files of one repository at one commit into a folder.

    What is unfinished lies in FOLDER/.rl-data/download, under the digest of the whole file: a later call goes on with
    it, also after this process was killed. huggingface_hub's own download into a folder begins a file anew then
    (1.33), which is why its `http_get` is called here; to be given up for `snapshot_download` when that resumes.

    Args:
        command: what a user who finds the folder unfinished has to say again.
    """

    def __init__(
        self, name: str, kind: RepoType, commit: str, folder: Path, *, endpoint: str | None, command: str
    ) -> None:
        self._name = name
        self._kind = kind
        self._commit = commit
        self._folder = folder
        self._endpoint = endpoint
        self._command = command

    def num_missing_bytes(self, file: HubFile) -> int:
        """What is still to come of a file that is not there; whether what is there is right is not looked at."""
        if (self._folder / file.path).is_file():
            return 0
        part = self._part(file)
        return max(0, file.size - (part.stat().st_size if part.is_file() else 0))

    def fetch_all(self, files: Sequence[HubFile]) -> int:
        """Makes FOLDER/PATH each of the files; returns how many were not there already. Shows progress bars.

        From the first byte to the last the folder is one that is not finished (`rl_data.rows.unfinished`), also where
        it has all files in an older revision.

        Raises:
            DataError: if one cannot be fetched or written, or what came is not what the hub said.
        """
        pending = [file for file in files if not is_whole(self._folder / file.path, file)]
        for number, file in enumerate(pending):
            with hub_errors(self._name):
                paths = [owed.path for owed in pending[number:]]
                note_unfinished(self._folder, self._name, paths, command=self._command)
            self._fetch(file)
        with hub_errors(self._name):
            note_finished(self._folder, self._name)
        return len(pending)

    def _fetch(self, file: HubFile) -> None:
        """Logs a line at the end, for where no bar is shown."""
        started = time.monotonic()
        to, part = self._folder / file.path, self._part(file)
        with hub_errors(f"{self._name}: {file.path}"):
            part.parent.mkdir(parents=True, exist_ok=True)
            to.parent.mkdir(parents=True, exist_ok=True)
            self._get(file, part)
            if not is_whole(part, file):
                part.unlink()
                raise DataError(
                    f"{self._name}: {file.path}: what came has not the digest {file.digest} that the hub gave; "
                    "it was deleted: try again"
                )
            os.replace(part, to)
        logger.info("%s: %.1f MB in %.1f s, digest checked", file.path, file.size / 1e6, time.monotonic() - started)

    def _part(self, file: HubFile) -> Path:
        return self._folder / PLACE / f"{file.digest}.part"

    def _get(self, file: HubFile, part: Path) -> None:
        import huggingface_hub as untyped

        hub = cast(Any, untyped)  # its types leave parts open
        url = hub.hf_hub_url(
            self._name, file.path, repo_type=self._kind, revision=self._commit, endpoint=self._endpoint
        )
        with part.open("ab") as out:
            if out.tell() > file.size:
                out.truncate(0)
            if out.tell():
                logger.info("%s: going on after %d of %d bytes", file.path, out.tell(), file.size)
            hub.file_download.http_get(
                url,
                out,
                resume_size=out.tell(),
                headers=hub.utils.build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.path,
            )


def is_whole(path: Path, file: HubFile) -> bool:
    """Whether a file is there with the size and the digest that the hub gave."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.is_large else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.digest
