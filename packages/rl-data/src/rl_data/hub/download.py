"""Downloading a model or a data set of the hub into a folder."""

import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

from rl_data.errors import DataError
from rl_data.hub.catalog import CATALOG, HubRepo, RepoType
from rl_data.hub.checks import check_data_set, check_model
from rl_data.hub.fetching import Fetcher
from rl_data.hub.files import list_files


class Download(NamedTuple):
    """What is in the folder now."""

    repo: HubRepo
    commit: str
    num_fetched: int
    num_present: int
    """Files that were there already, with the right digest."""
    num_bytes: int
    """Of all files."""
    content: str
    """What was found in them, for a person."""


def download(
    name: str, to: Path, *, kind: RepoType | None = None, revision: str | None = None, endpoint: str | None = None
) -> Download:
    """Fetches a repository into a folder; what is there already, and whole, is not fetched again.

    Args:
        name: a key of `CATALOG`, or OWNER/NAME.
        kind: of what OWNER/NAME is; a data set if None.
        revision: a branch, tag or commit; the main branch if None.
        endpoint: address of the hub; HF_ENDPOINT, or huggingface.co, if None.

    Raises:
        DataError: if huggingface_hub is not installed, anything cannot be fetched, the disk is too small for it, or
            what was fetched is damaged or incomplete.
    """
    try:
        import huggingface_hub  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise DataError(f"{name}: downloads need huggingface_hub: pip install 'rl-data[hf]'") from error
    repo = _repo(name, kind)
    found = list_files(repo.name, repo.kind, revision=revision, endpoint=endpoint)
    if not found.files:
        raise DataError(f"{repo.name}: the hub has no file of it at {found.commit}")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{to}: cannot be made: {error.strerror}") from error
    flags = {"--type": kind, "--revision": revision, "--endpoint": endpoint}
    given = [word for flag, value in flags.items() if value for word in (flag, value)]
    command = shlex.join(["rl-data", "download", name, *given])
    fetcher = Fetcher(repo.name, repo.kind, found.commit, to, endpoint=endpoint, command=command)
    missing = sum(fetcher.num_missing_bytes(file) for file in found.files)
    free = shutil.disk_usage(to).free
    if missing > free:
        raise DataError(f"{to}: {repo.name} needs {missing / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there")
    num_fetched = fetcher.fetch_all(found.files)
    return Download(
        repo=repo,
        commit=found.commit,
        num_fetched=num_fetched,
        num_present=len(found.files) - num_fetched,
        num_bytes=found.num_bytes,
        content=check_model(to) if repo.kind == "model" else check_data_set(to, repo),
    )


def _repo(name: str, kind: RepoType | None) -> HubRepo:
    if name not in CATALOG:
        if "/" not in name:
            raise DataError(f"{name}: expected OWNER/NAME or one of {', '.join(CATALOG)}")
        return HubRepo(name, kind or "dataset")
    repo = CATALOG[name]
    if kind not in (None, repo.kind):
        raise DataError(f"{name}: it is a {repo.kind}, got --type {kind}")
    return repo
