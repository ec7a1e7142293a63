"""What a benchmark leaves behind: records of measured numbers, printed as JSON and kept in bench/results."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_SIGNIFICANT_DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One measured number, and all that it takes to measure it again."""

    name: str
    value: float
    unit: str
    card: str
    """GPU that it was measured on, or the processor where there is none."""
    date: str
    command: str
    commit: str


def measured(name: str, value: float, unit: str) -> Record:
    """A record of this process: its command line, this day, this commit, this machine's card."""
    rounded = float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    today = datetime.now(UTC).date().isoformat()
    return Record(
        name=name, value=rounded, unit=unit, card=card_name(), date=today, command=command_line(), commit=commit()
    )


def add_out_flag(parser: argparse.ArgumentParser) -> None:
    """Lets a program take `--out DIR`, for `report`."""
    parser.add_argument("--out", type=Path, help="folder to keep the records in, one file for each name")


def report(records: Sequence[Record], details: Mapping[str, Any], out: Path | None) -> None:
    """Prints records and details as one JSON object; with `out`, the records are also kept there."""
    print(json.dumps({"results": [asdict(record) for record in records], "details": details}, indent=2))
    if out is not None:
        for record in records:
            keep(record, out)


def keep(record: Record, folder: Path) -> Path:
    """Puts the record first into the list of its name and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record.name}.json"
    older = [one for one in read(file) if one != record] if file.exists() else []
    file.write_text(json.dumps([asdict(one) for one in [record, *older]], indent=2) + "\n")
    return file


def read(file: Path) -> list[Record]:
    """The records of a file, the newest first.

    Raises:
        ValueError: for a file that holds anything else.
    """
    try:
        return [Record(**one) for one in json.loads(file.read_text())]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: expected a list of records, got something else: {error}") from error


def card_name() -> str:
    """Name of the GPU, or of the processor where there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"CPU ({line.partition(':')[2].strip()})"
    return "CPU"


def command_line() -> str:
    """This process's command line as it was typed, without the folders of this machine and without --out."""
    words = sys.orig_argv[1:]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    return shlex.join(["python", *(_without_folders(word) for word in words)])


def _without_folders(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if not value.startswith("/"):
        return word
    path = Path(value)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{flag}{equals}{shown}"


def commit() -> str:
    """The commit that is measured: RL_COMMIT if it is set, else that of the checkout, "unknown" without one.

    "+changes" follows it where tracked files differ from it.
    """
    if given := os.environ.get("RL_COMMIT"):
        return given
    head = _git("rev-parse", "--short=10", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
