"""The folder of one run: its resolved configuration, metrics, samples, checkpoints, final model and summary."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import yaml

from recipes.errors import UsageError
from rl_data import RowNote, Sample
from rl_data.wire import append_samples
from rl_train.megatron.checkpoint_folder import TRACKER

type MetricsLine = Mapping[str, str | float | Mapping[str, float] | None]
"""One line of metrics.jsonl: phase, step and numbers, with the seconds of the step by phase."""

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
ROWS_FILE = "left_out_rows.jsonl"
SUMMARY_FILE = "summary.json"

# What may change when a run is resumed: by which path its own folder is reached, how long it goes on, and over how many
# steps the learning rate decays, which follows from that where it is not said; how often it saves and looks, how long
# it waits, the way by which weights get to the engines, which are the same bits by every way, where engines are that
# somebody else runs, what becomes of bad rows, how many processes and requests read and grade at a time, and how many
# GPUs there are: a checkpoint loads on any number of data-parallel ranks, while the flags for tensor and pipeline
# parallelism stay. Nor does it matter whether trainer and engines share them, and whose memory is where.
_FREE_ON_RESUME = (
    "run-dir",
    "num-rollout",
    "num-epoch",
    "lr-decay-iters",
    "save-interval",
    "eval-interval",
    "update-weight-transport",
    "update-weight-mode",
    "update-weight-disk-dir",
    "rollout-external-engine-addrs",
    "actor-num-nodes",
    "actor-num-gpus-per-node",
    "rollout-num-gpus",
    "rollout-num-gpus-per-engine",
    "colocate",
    "offload-rollout",
    "offload-train",
    "offload-train-parameters",
    "sglang-mem-fraction-static",
    "num-data-workers",
    "on-bad-row",
    "max-bad-row-share",
    "rm-num-workers",
    "rm-max-concurrency",
    "rm-max-retries",
)
_FREE_SUFFIXES = ("-timeout-s",)


def check_folder(path: Path, checkpoints: Path, *, config_text: str, is_resumed: bool) -> None:
    """Looks whether a run may use the folder, and that of its checkpoints, and changes nothing.

    Raises:
        UsageError: if a folder cannot be written; if it holds something and the run is not resumed; if there is no run
            with these settings, or none with a checkpoint, to resume.
    """
    _check_writable("--run-dir", path)
    _check_writable("--save", checkpoints)
    config_file = path / CONFIG_FILE
    if is_resumed:
        if not config_file.exists():
            raise UsageError(f"--resume: {path} holds no run to resume (no {CONFIG_FILE})")
        _check_same_settings(config_file, config_text)
        if not (checkpoints / TRACKER).exists():
            raise UsageError(
                f"--resume: {checkpoints} holds no checkpoint: the run ended before its first; start anew elsewhere"
            )
    elif not _is_unused(path):
        what = "another run" if config_file.exists() else "other files"
        raise UsageError(f"--run-dir {path}: it holds {what}; give --resume to go on with a run, or another folder")
    elif (checkpoints / TRACKER).exists():
        raise UsageError(f"--save {checkpoints}: it holds checkpoints of another run; give another folder")


def _is_unused(path: Path) -> bool:
    """Whether nothing was made there yet: no folder, an empty one, or what a failed start leaves."""
    if not path.exists():
        return True
    return all(
        entry.name in (CONFIG_FILE, ROWS_FILE)
        or (entry.is_dir() and entry.name == "checkpoints" and not any(entry.iterdir()))
        for entry in path.iterdir()
    )


class RunFolder:
    """Writes what a run leaves behind. Lines are appended and flushed at once, so a killed run keeps them.

    Args:
        path: the folder, made if it is not there; `check_folder` was asked before.
        checkpoints: where checkpoints go.
        config_text: the resolved configuration.
    """

    def __init__(self, path: Path, checkpoints: Path, *, config_text: str) -> None:
        self.path = path
        self.checkpoints = checkpoints
        self.model = path / "model"
        self._metrics = path / METRICS_FILE
        self._samples = path / SAMPLES_FILE
        self._rows = path / ROWS_FILE
        path.mkdir(parents=True, exist_ok=True)
        checkpoints.mkdir(parents=True, exist_ok=True)
        _replace(path / CONFIG_FILE, config_text)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.checkpoints / TRACKER).exists()

    def new_model(self) -> Path:
        """The place of the final model, emptied: a resumed run that goes on writes it again."""
        shutil.rmtree(self.model, ignore_errors=True)
        return self.model

    def keep_until(self, step: int) -> None:
        """Drops what was logged of steps after `step`: a resume from a checkpoint makes it again."""
        for file in (self._metrics, self._samples, self._rows):
            if file.exists():
                with file.open() as lines:
                    # A run that was killed may have left the start of a line.
                    kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= step]
                _replace(file, "".join(kept))

    def log_metrics(self, record: MetricsLine) -> None:
        """Appends one line to metrics.jsonl."""
        with self._metrics.open("a") as out:
            out.write(json.dumps(record) + "\n")

    def evaluated(self, step: int) -> set[str]:
        """Names of the data sets that metrics.jsonl has an evaluation of after `step`."""
        if not self._metrics.exists():
            return set()
        with self._metrics.open() as lines:
            records = [json.loads(line) for line in lines]
        return {record["data_set"] for record in records if (record["phase"], record["step"]) == ("eval", step)}

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Appends one line per sample to samples.jsonl, the step in its metadata."""
        append_samples(
            self._samples, (replace(sample, metadata={**sample.metadata, "step": step}) for sample in samples)
        )

    def list_rows_anew(self, notes: Sequence[RowNote]) -> None:
        """Makes left_out_rows.jsonl anew with the rows that are known to be bad at the start, as those of step 0."""
        self._rows.unlink(missing_ok=True)
        self.log_rows(notes, step=0)

    def log_rows(self, notes: Sequence[RowNote], *, step: int) -> None:
        """Appends one line per row that was left out or cut to left_out_rows.jsonl, which is there if any was."""
        if not notes:
            return
        with self._rows.open("a") as out:
            out.writelines(
                json.dumps({"step": step, "fate": note.fate, "row": note.row, "message": note.message}) + "\n"
                for note in notes
            )


def _check_writable(flag: str, path: Path) -> None:
    """Checks that the folder, or the nearest one above it that is there, takes new files."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        what = "expected a folder, found a file" if there == path else f"{there} is a file"
        raise UsageError(f"{flag} {path}: {what}")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot write in {there}: {error.strerror}") from error


def _check_same_settings(config_file: Path, config_text: str) -> None:
    before = cast("dict[str, object]", yaml.safe_load(config_file.read_text(encoding="utf-8")) or {})
    now = cast("dict[str, object]", yaml.safe_load(config_text) or {})
    for name in sorted(before.keys() | now.keys()):
        is_free = name.removeprefix("no-") in _FREE_ON_RESUME or name.endswith(_FREE_SUFFIXES)
        if is_free or before.get(name) == now.get(name):
            continue
        title, now_title = _title(config_file.read_text(encoding="utf-8")), _title(config_text)
        of = f" (of {title}, this is {now_title})" if title and title != now_title else ""
        raise UsageError(
            f"--resume: {config_file}{of} says {name}: {before.get(name, 'nothing')}, now it is "
            f"{now.get(name, 'nothing')}"
        )


def _title(config_text: str) -> str:
    """The recipe and its presets, as the first line of a resolved configuration says; "" where it does not."""
    _, begin, rest = config_text.partition("\n")[0].partition("# python -m ")
    return f"python -m {rest}" if begin else ""


def _step_of(line: str) -> int:
    record = json.loads(line)
    return int(record["step"] if "step" in record else record["metadata"]["step"])


def _replace(file: Path, text: str) -> None:
    beside = file.with_suffix(file.suffix + ".tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)
