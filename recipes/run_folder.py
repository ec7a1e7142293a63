"""The folder of one run: its resolved configuration, metrics, samples, checkpoints and summary."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rl_data import Sample
from rl_data.json import JsonValue
from rl_data.wire import encode_sample

from recipes.errors import UsageError

CONFIG_FILE = "config.yaml"


class RunFolder:
    """Writes what a run leaves behind. Lines are appended and flushed at once, so a killed run keeps them.

    Raises:
        UsageError: if the folder holds something and `is_resumed` is False, or holds another configuration's run,
            or there is no run to resume. Nothing is changed then.
    """

    def __init__(self, path: Path, *, config_text: str, is_resumed: bool) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._metrics = path / "metrics.jsonl"
        self._samples = path / "samples.jsonl"
        _check_is_free(path, is_resumed=is_resumed)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        (path / CONFIG_FILE).write_text(config_text)

    def keep_before(self, step: int) -> None:
        """Drops metrics and samples of `step` and later: a resume from a checkpoint makes them again."""
        for file in (self._metrics, self._samples):
            if not file.exists():
                continue
            lines = [line for line in file.read_text().splitlines(keepends=True) if _step_of(line) < step]
            _replace(file, "".join(lines))

    def log_metrics(self, record: Mapping[str, JsonValue]) -> None:
        """Appends one line to metrics.jsonl."""
        _append(self._metrics, [json.dumps(record)])

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Appends one line per sample to samples.jsonl, the step in its metadata."""
        marked = (replace(sample, metadata={**sample.metadata, "step": step}) for sample in samples)
        _append(self._samples, (encode_sample(sample).decode() for sample in marked))

    def write_summary(self, summary: Mapping[str, JsonValue]) -> None:
        """Writes summary.json."""
        _replace(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def _check_is_free(path: Path, *, is_resumed: bool) -> None:
    holds_run = (path / CONFIG_FILE).exists()
    if path.exists() and not path.is_dir():
        raise UsageError(f"--run-dir {path}: expected a folder, found a file")
    if is_resumed and not holds_run:
        raise UsageError(f"--resume: {path} holds no run to resume (no {CONFIG_FILE})")
    if not is_resumed and path.exists() and any(path.iterdir()):
        what = "another run" if holds_run else "other files"
        raise UsageError(f"--run-dir {path}: it holds {what}; give --resume to continue that run, or another folder")


def _step_of(line: str) -> int:
    record = json.loads(line)
    return int(record["step"] if "step" in record else record["metadata"]["step"])


def _append(file: Path, lines: Iterable[str]) -> None:
    with file.open("a") as out:
        out.writelines(f"{line}\n" for line in lines)


def _replace(file: Path, text: str) -> None:
    beside = file.with_suffix(file.suffix + ".tmp")
    beside.write_text(text)
    os.replace(beside, file)
