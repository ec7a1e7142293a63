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

from rl_weights.dtypes import num_bytes as num_bytes_of
from rl_weights.errors import CheckpointError
from rl_weights.hf import HFCheckpoint
from rl_weights.hf.fp8 import Unquantized
from rl_weights.new_folder import sync_folder

_READ_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of a command."""

    seconds: float
    """From its start to its end."""
    peak_bytes: int
    """Largest resident memory, mapped files included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """Runs of `cp -r`, before and after the conversion that they are held against."""

    seconds: float
    """As `cp` ends: the system may still hold what it wrote in memory. Mean of the runs."""
    flushed_seconds: float
    """Until what it wrote is on the disk, as a conversion's output is when it ends. Mean of the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionBench:
    """Both directions, each beside a copy of what it read, in the same minutes on the same disk."""

    num_bytes: int
    """Of the model folder."""
    copy_hf: Copied
    to_torch_dist: Measured
    copy_torch_dist: Copied
    to_hf: Measured
    is_exact: bool
    """Whether the model that came back is equal to the bit: to what it stands for, if its weights are float8."""

    @property
    def to_torch_dist_over_copy(self) -> float:
        """Times of `cp -r`, not flushed, that the conversion to torch_dist took."""
        return self.to_torch_dist.seconds / self.copy_hf.seconds

    @property
    def to_torch_dist_over_flushed_copy(self) -> float:
        """The same, over `cp -r` and its flush."""
        return self.to_torch_dist.seconds / self.copy_hf.flushed_seconds

    @property
    def to_hf_over_copy(self) -> float:
        """Times of `cp -r`, not flushed, that the conversion back took."""
        return self.to_hf.seconds / self.copy_torch_dist.seconds

    @property
    def to_hf_over_flushed_copy(self) -> float:
        """The same, over `cp -r` and its flush."""
        return self.to_hf.seconds / self.copy_torch_dist.flushed_seconds

    @property
    def peak_bytes(self) -> int:
        """Of the direction that took more."""
        return max(self.to_torch_dist.peak_bytes, self.to_hf.peak_bytes)


def bench_conversion(hf_checkpoint: Path | str, work: Path | str) -> ConversionBench:
    """Converts a model folder there and back by the command line, each time between two runs of `cp -r`.

    Before each run what it reads is read once, so that none finds in memory what another did not. Conversions flush
    what they write, and copies are flushed too, which is timed by itself, and removed before the next run, so that none
    waits for another's. Everything that was made is removed.

    Args:
        hf_checkpoint: model folder in Hugging Face format.
        work: folder to write in; needs three times the space of the model, as it is without float8.

    Raises:
        CheckpointError: for what is no model folder or no folder to write in, if there is not enough space, or if a
            conversion fails.
    """
    source = Path(hf_checkpoint).absolute()
    specs = Unquantized(HFCheckpoint(source)).specs.values()  # before anything is copied
    if not Path(work).is_dir() or not os.access(work, os.W_OK):
        raise CheckpointError(f"{work}: expected a folder to write in")
    num_bytes = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    # What is made of float8 weights is larger than they are.
    num_made_bytes = max(num_bytes, sum(num_bytes_of(dtype, shape) for _, dtype, shape in specs))
    free = shutil.disk_usage(work).free
    if free < 3.2 * num_made_bytes:
        raise CheckpointError(
            f"{work}: {free} bytes are free, expected at least 3.2 times the {num_made_bytes} of a checkpoint"
        )
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


def _copy(source: Path, target: Path) -> Copied:
    with _removed(target):
        seconds = _measure(source, ["cp", "-r", str(source), str(target)]).seconds
        started = time.perf_counter()
        sync_folder(target)
        return Copied(seconds=seconds, flushed_seconds=seconds + time.perf_counter() - started)


def _mean(first: Copied, second: Copied) -> Copied:
    """Of a copy before and one after what it is held against, on a machine that others may load."""
    return Copied(
        seconds=(first.seconds + second.seconds) / 2,
        flushed_seconds=(first.flushed_seconds + second.flushed_seconds) / 2,
    )


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
