"""How long conversions take beside `cp -r` of the same files, and how much memory they take."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rl_weights.errors import CheckpointError

_READ_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of a command."""

    seconds: float
    """From its start to its end."""
    peak_bytes: int
    """Largest resident memory, mapped files included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionBench:
    """Both directions, each beside a copy of what it read, in the same minutes on the same disk."""

    num_bytes: int
    """Of the model folder."""
    copy_hf: Measured
    to_torch_dist: Measured
    copy_torch_dist: Measured
    to_hf: Measured
    is_exact: bool
    """Whether the model that came back is equal to the bit."""

    @property
    def to_torch_dist_over_copy(self) -> float:
        """Times of `cp -r` that the conversion to torch_dist took."""
        return self.to_torch_dist.seconds / self.copy_hf.seconds

    @property
    def to_hf_over_copy(self) -> float:
        """Times of `cp -r` that the conversion back took."""
        return self.to_hf.seconds / self.copy_torch_dist.seconds

    @property
    def peak_bytes(self) -> int:
        """Of the direction that took more."""
        return max(self.to_torch_dist.peak_bytes, self.to_hf.peak_bytes)


def bench_conversion(hf_checkpoint: Path | str, work: Path | str) -> ConversionBench:
    """Converts a model folder there and back by the command line, each time between two runs of `cp -r`.

    Before each run what it reads is read once, so that none finds in memory what another did not. Conversions flush
    what they write, and copies are removed before the next run, so that none waits for another's. Everything that was
    made is removed.

    Args:
        hf_checkpoint: model folder in Hugging Face format.
        work: folder to write in; needs three times the space of the model.

    Raises:
        CheckpointError: if there is not enough space, or a conversion fails.
    """
    source = Path(hf_checkpoint).absolute()
    num_bytes = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    free = shutil.disk_usage(work).free
    if free < 3.2 * num_bytes:
        raise CheckpointError(f"{work}: {free} bytes are free, expected at least 3.2 times the model's {num_bytes}")
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        torch_dist, again = folder / "torch_dist", folder / "again"
        before = _copy(source, folder / "copy")
        to_torch_dist = _convert(source, "--hf-checkpoint", str(source), "--save", str(torch_dist))
        copy_hf = _mean(before, _copy(source, folder / "copy"))
        before = _copy(torch_dist, folder / "copy")
        back = ("--load", str(torch_dist), "--hf-checkpoint", str(source), "--save-hf", str(again))
        to_hf = _convert(torch_dist, *back)
        copy_torch_dist = _mean(before, _copy(torch_dist, folder / "copy"))
        shutil.rmtree(torch_dist)
        is_exact = _is_equal(source, again)
    return ConversionBench(
        num_bytes=num_bytes,
        copy_hf=copy_hf,
        to_torch_dist=to_torch_dist,
        copy_torch_dist=copy_torch_dist,
        to_hf=to_hf,
        is_exact=is_exact,
    )


def _copy(source: Path, target: Path) -> Measured:
    with _removed(target):
        return _measure(source, ["cp", "-r", str(source), str(target)])


def _mean(first: Measured, second: Measured) -> Measured:
    """Of a command before and after the one that it is held against, on a machine that others may load."""
    seconds = (first.seconds + second.seconds) / 2
    return Measured(seconds=seconds, peak_bytes=max(first.peak_bytes, second.peak_bytes))


def _convert(source: Path, *arguments: str) -> Measured:
    return _measure(source, [sys.executable, "-m", "rl_weights", "convert", *arguments])


@contextmanager
def _removed(folder: Path) -> Generator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(source: Path, command: Sequence[str]) -> Measured:
    for file in source.rglob("*"):
        if file.is_file():
            _read_through(file)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise CheckpointError(f"{' '.join(command)}: exit code {process.returncode}")
    return Measured(seconds=seconds, peak_bytes=usage.ru_maxrss * 1024)


def _read_through(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(_READ_BYTES):
            pass


def _is_equal(first: Path, second: Path) -> bool:
    from rl_weights.diff import diff_checkpoints

    return diff_checkpoints(first, second).is_equal
