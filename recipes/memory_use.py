"""How much memory a run's steps take, by phase."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rl_train import MemoryUse

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup

_GIB = 2**30
_DEVICE, _RESIDENT = "device", "resident"


class MemoryLog:
    """Looks at the trainer's ranks, and the GPUs they sit on, at the ends of phases."""

    def __init__(self, trainer: "TrainerGroup") -> None:
        self._trainer = trainer
        self._gib: dict[str, float] = {}

    def note(self, phase: str) -> None:
        """Remembers what is in use now, at the end of the phase, and the peaks since the last look."""
        self._gib |= {f"{phase}_{what}": gib for what, gib in _largest(self._trainer.memory_use()).items()}

    def take(self) -> dict[str, float]:
        """What was noted since the last call; "train_device" is what all processes had of a GPU after training.

        GiB of the rank or GPU that has most: `device` of the GPU, by all processes; `allocated_peak` and
        `reserved_peak` of a rank's tensors and of its allocator; `parked` of host memory, for what was moved off a
        GPU. Where there is no GPU, `resident` is the whole of a rank's process.
        """
        taken, self._gib = self._gib, {}
        return taken


def peak(gib: Mapping[str, float]) -> tuple[str, float]:
    """The one figure that a line on the terminal has room for: its name, and the most that was in use."""
    for what, name in ((_DEVICE, "GPU GiB"), (_RESIDENT, "rank GiB")):
        if of_kind := [value for key, value in gib.items() if key.endswith(what)]:
            return name, max(of_kind)
    raise AssertionError("a rank always has one or the other")


def _largest(uses: Sequence[MemoryUse]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for use in uses:
        values = {
            _DEVICE: use.device_bytes,
            "allocated_peak": use.allocated_peak_bytes,
            "reserved_peak": use.reserved_peak_bytes,
            "parked": use.parked_bytes or None,
            _RESIDENT: None if use.device_bytes is not None else use.resident_bytes,
        }
        for name, value in values.items():
            if value is not None:
                largest[name] = max(largest.get(name, 0.0), value / _GIB)
    return largest
