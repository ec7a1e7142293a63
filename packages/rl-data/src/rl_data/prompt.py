"""One prompt, rendered to tokens. P = number of prompt tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rl_data.json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A row of a prompt data set as the engines take it.

    Raises:
        ValueError: if there is no token.
    """

    row: int
    """Position of the row in its data set, counted from 0."""
    epoch: int
    """How many times the whole data set was read before."""
    tokens: NDArray[np.int32]
    """[P] token ids, the chat template's generation prompt included."""
    text: str
    """What the tokens stand for."""
    label: str | None = None
    """The reference answer, if the data set has one."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The row's own fields, for graders and generate functions."""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.tokens.size == 0:
            raise ValueError(f"prompt of row {self.row}: expected at least one token, got shape {self.tokens.shape}")

    @property
    def group_id(self) -> str:
        """Name of the group of samples drawn for this occurrence of the prompt."""
        return f"{self.epoch}-{self.row}"
