"""What every source is told about the rows that it reads."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.order import Cursor, MixedCursor, RowCursor
from rl_data.rows import RowFile, open_rows
from rl_data.rows.combined import RowChain

DEFAULT_BAD_ROW_SHARE = 0.01
"""Of all rows, where bad ones are skipped and nobody says how many may be."""

_ROUNDING = 1e-6
_NUM_WORKERS = 2
_MANY_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingConfig:
    """Which rows are read, in which order, and what becomes of bad ones.

    Raises:
        DataError: if a value makes no sense.
    """

    prompt_data: str | tuple[str, ...] = field(
        metadata={
            "help": "data sets: files (.jsonl, also .gz or .zst, .parquet, .arrow), folders, patterns such as "
            "'DIR/*.jsonl', or hub:OWNER/NAME; each with a slice, as in FILE@[0:100], if wanted"
        }
    )
    prompt_data_weights: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "shares in which the data sets of --prompt-data are mixed, one each; default: one after the other"
        },
    )
    tool_key: str = field(
        default="tools", metadata={"help": "key of tool definitions for the chat template, in rows that have it"}
    )
    apply_chat_template_kwargs: dict[str, JsonValue] = field(
        default_factory=dict[str, JsonValue],
        metadata={"help": 'JSON object of variables for the chat template, such as {"enable_thinking": false}'},
    )
    chat_template_kwargs_key: str = field(
        default="chat_template_kwargs",
        metadata={
            "help": "key of an object of variables for the chat template, in rows that have it; they win over "
            "--apply-chat-template-kwargs"
        },
    )
    rollout_shuffle: bool = field(
        default=False, metadata={"help": "read the rows of each epoch in an order of its own"}
    )
    rollout_seed: int = field(default=42, metadata={"help": "seed of the order of rows, and of sampling"})
    on_bad_row: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "what a row that cannot be used does: end the run, or be skipped and listed"}
    )
    max_bad_row_share: float | None = field(
        default=None,
        metadata={
            "help": "share of bad rows above which --on-bad-row skip ends the run all the same; "
            f"default: {DEFAULT_BAD_ROW_SHARE}"
        },
    )
    num_data_workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that render and tokenize the next rows ahead of their use; 0: when they are used; "
            "default: 2 from 10,000 rows on, which outweigh the seconds that the processes take to start, else 0"
        },
    )
    data_timeout_s: float = field(
        default=600.0,
        metadata={"help": "seconds that such a process may take for a row, its start included, before the run ends"},
    )

    def __post_init__(self) -> None:
        if not self.data_sets:
            raise DataError("prompt_data: expected at least one data set, got none")
        weights = self.prompt_data_weights
        if weights and len(weights) != len(self.data_sets):
            raise DataError(
                f"prompt_data_weights: expected one for each of {len(self.data_sets)} data sets, got {len(weights)}"
            )
        if any(not 0 < weight < float("inf") for weight in weights):
            raise DataError(f"prompt_data_weights: expected numbers above 0, got {weights}")
        if self.max_bad_row_share is not None:
            if not 0 <= self.max_bad_row_share <= 1:
                raise DataError(f"max_bad_row_share {self.max_bad_row_share}: expected a share from 0 to 1")
            if self.on_bad_row != "skip":
                raise DataError(f"max_bad_row_share {self.max_bad_row_share}: has no effect without on_bad_row skip")
        if self.num_data_workers is not None and self.num_data_workers < 0:
            raise DataError(f"num_data_workers {self.num_data_workers}: expected 0 or more")
        if not 0 < self.data_timeout_s <= threading.TIMEOUT_MAX:
            most = f"at most {threading.TIMEOUT_MAX:g}, the longest that the system waits"
            raise DataError(f"data_timeout_s {self.data_timeout_s}: expected a number above 0 and {most}")

    def num_workers_for(self, num_rows: int) -> int:
        """Worker processes for data sets of as many rows."""
        if self.num_data_workers is not None:
            return self.num_data_workers
        return _NUM_WORKERS if num_rows >= _MANY_ROWS else 0

    @property
    def bad_row_share(self) -> float:
        """The share of bad rows that is let pass where they are skipped."""
        return DEFAULT_BAD_ROW_SHARE if self.max_bad_row_share is None else self.max_bad_row_share

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The names in `prompt_data`, also where it is one text."""
        return (self.prompt_data,) if isinstance(self.prompt_data, str) else self.prompt_data

    @property
    def name(self) -> str:
        """How messages name all that is read."""
        return ", ".join(self.data_sets)


def open_data_sets(config: ReadingConfig) -> RowFile:
    """All rows that a configuration names, one data set after the other.

    Raises:
        DataError: if a data set is missing, empty or unreadable.
    """
    parts = [open_rows(name) for name in config.data_sets]
    return RowChain(parts) if len(parts) > 1 else parts[0]


def most_bad_rows(max_share: float, num_rows: int) -> int:
    """How many rows may be bad of `num_rows`, so that their share is at most `max_share`: 29 of 100 for 0.29."""
    return int(max_share * num_rows + _ROUNDING)


def cursor_of(config: ReadingConfig, rows: RowFile) -> Cursor:
    """A cursor at the beginning of the rows that `open_data_sets` gave."""
    if not config.prompt_data_weights or not isinstance(rows, RowChain) or len(config.data_sets) == 1:
        return RowCursor(rows, name=config.name, shuffle=config.rollout_shuffle, seed=config.rollout_seed)
    cursors = [
        RowCursor(
            part, name=name, shuffle=config.rollout_shuffle, seed=config.rollout_seed + number, first_row=first_row
        )
        for number, (part, name, first_row) in enumerate(zip(rows.parts, config.data_sets, rows.starts, strict=False))
    ]
    return MixedCursor(cursors, config.prompt_data_weights, name=config.name)
