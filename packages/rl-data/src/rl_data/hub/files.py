"""Which files a repository of the hub has."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from rl_data.errors import DataError
from rl_data.hub.catalog import RepoType
from rl_data.hub.errors import hub_errors

_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".gguf", ".onnx", ".h5", ".msgpack", ".ot")
"""Copies of the weights in other formats, which are not wanted where there are safetensors."""
_TIMEOUT_S = 60.0
"""huggingface_hub waits without end by default."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub describes it."""

    path: str
    size: int
    digest: str
    """SHA-256 of a large file; of any other, git's SHA-1 of it as a blob."""

    @property
    def is_large(self) -> bool:
        """Whether `digest` is a SHA-256."""
        return len(self.digest) == 64


@dataclass(frozen=True, slots=True)
class Revision:
    """A repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)


def list_files(name: str, kind: RepoType, *, revision: str | None, endpoint: str | None) -> Revision:
    """What the hub holds, without what serves the hub alone and without copies of the weights in other formats.

    Raises:
        DataError: if there is no such repository, it may not be read, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    api = cast(Any, HfApi)(endpoint=endpoint)
    with hub_errors(name):
        found = api.repo_info(name, repo_type=kind, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
    files = [_described(name, sibling) for sibling in found.siblings or ()]
    has_safetensors = any(file.path.endswith(".safetensors") for file in files)
    wanted = tuple(
        file
        for file in files
        if not file.path.startswith(".git") and not (has_safetensors and file.path.endswith(_OTHER_WEIGHTS))
    )
    return Revision(commit=str(found.sha), files=wanted)


def _described(name: str, sibling: Any) -> HubFile:
    path = str(sibling.rfilename)
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(f"{name}: the hub names a file {path!r}, which would lie outside the folder")
    digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    if sibling.size is None or not digest:
        raise DataError(f"{name}: the hub gives no size or no digest of {path}")
    return HubFile(path=path, size=int(sibling.size), digest=str(digest))
