"""What goes between a worker process and its owner: a JSON line with a task, and `TAKEN` and a JSON line back."""

from typing import Any

import msgspec

READY = b"ready\n"
READY_UNCONFINED = b"ready unconfined\n"
"""The same, where the kernel cannot take from the process what comparing does not need."""
TAKEN = b"taken\n"
"""Said before a task is looked at: what ends a process before it has said so is not the task."""
MATH = "math"
"""Role of a worker that compares; any other is the path of the user's function."""


class Comparison(msgspec.Struct, kw_only=True, frozen=True, tag="comparison"):
    """Two answers to compare as mathematics."""

    answer: str
    label: str


class Call(msgspec.Struct, kw_only=True, frozen=True, tag="call"):
    """A response for the user's function."""

    response: str
    label: str | None
    metadata: dict[str, Any]


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """A task to do within `timeout_s`."""

    task: Comparison | Call
    timeout_s: float


class Verdict(msgspec.Struct, kw_only=True, frozen=True):
    """The reward, or why there is none."""

    value: float | None
    reason: str
    is_timeout: bool = False
    """Whether there is none for want of time."""
    is_last: bool = False
    """Whether what gave it ends; where it compares, another takes its place by itself."""
