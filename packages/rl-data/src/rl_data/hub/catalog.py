"""Models and data sets that are asked for by a short name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

type RepoType = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository of the hub."""

    name: str
    """OWNER/NAME."""
    kind: RepoType
    keys: tuple[str, ...] = ()
    """What the first row of a data set must have."""


CATALOG: Mapping[str, HubRepo] = {
    "qwen3-4b": HubRepo("Qwen/Qwen3-4B", "model"),
    "qwen3-4b-base": HubRepo("Qwen/Qwen3-4B-Base", "model"),
    "dapo-math-17k": HubRepo("zhuzilin/dapo-math-17k", "dataset", ("prompt", "label")),
    "aime-2024": HubRepo("zhuzilin/aime-2024", "dataset", ("prompt", "label")),
    "openhermes-2.5": HubRepo("teknium/OpenHermes-2.5", "dataset", ("conversations",)),
}
