"""What metrics.jsonl of a run holds."""

import json
import math
from pathlib import Path
from typing import Literal

import msgspec

from recipes.errors import UsageError
from recipes.report.lines import whole_lines

type Phase = Literal["sft", "grpo", "eval"]


class MetricsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line. Numbers that the phase does not have are None; fields that no curve shows are passed over."""

    phase: Phase
    step: int
    """Optimizer steps of the phase taken so far; an evaluation stands after this many steps of GRPO."""
    data_set: str = ""
    """Which set an evaluation was on."""
    reward_mean: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    logprob_abs_diff: float | None = None
    response_length_mean: float | None = None
    truncated_share: float | None = None
    seconds: dict[str, float] = {}
    """Time of each part of the step; "step" is the whole."""


def read_metrics(path: Path) -> dict[Phase, list[MetricsRecord]]:
    """The lines of metrics.jsonl by phase, in the order of their steps.

    Raises:
        UsageError: if the file is missing or empty, or at a line that is not a record.
    """
    if not path.is_file():
        raise UsageError(f"{path}: expected the metrics of a run, found no such file")
    records: dict[Phase, list[MetricsRecord]] = {"sft": [], "grpo": [], "eval": []}
    for where, line in whole_lines(path):
        record = _parse(line, where=where)
        records[record.phase].append(record)
    if not any(records.values()):
        raise UsageError(f"{path}: expected at least one whole line, found none")
    for of_phase in records.values():
        of_phase.sort(key=lambda record: record.step)
    return records


def finite(value: float | None) -> float | None:
    """The value, or None where there is no number to draw: JSON and curves have no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _parse(line: bytes, *, where: str) -> MetricsRecord:
    try:
        # Not msgspec's own parser: a diverged step is written with NaN or Infinity, which only json reads.
        return msgspec.convert(json.loads(line), MetricsRecord)
    except ValueError as error:
        raise UsageError(f"{where}: expected a JSON object with phase, step and numbers: {error}") from error
