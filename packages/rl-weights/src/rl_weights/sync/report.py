"""What one publish did."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from time import monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What one publish moved, and where its time went. On ranks that are not the writer only `gather_s` counts.

    Phases run beside each other, so `total_s` is not their sum. Those of the sinks are the slowest sink's. Where
    sinks that failed were given the version once more, seconds and `num_moved_bytes` are sums over both times.
    """

    version: int
    transport: str
    num_tensors: int
    num_bytes: int
    """Of all tensors."""
    num_moved_bytes: int
    """What travelled to each sink, or to the disk: less than `num_bytes` where only changes travel."""
    num_buckets: int
    buffers_on: str | None
    """Device of the buffers, "cpu" or a GPU such as "cuda:0"; None on ranks that are not the writer."""
    begin_s: float
    """The sinks end what they serve; runs beside the first gather."""
    gather_s: float
    """Waiting for the parts of the trainer's ranks; for a source of whole tensors, for those."""
    convert_s: float
    """Joining parts, splitting them into Hugging Face tensors and laying these end to end; on a GPU only the queueing
    of it."""
    checksum_s: float
    """Checksumming the buckets; on a GPU also waiting for the conversion."""
    transfer_s: float
    """What handing the buckets over took beyond `load_s`; on a disk also encoding and writing them."""
    load_s: float
    """Copying into the models."""
    flush_s: float
    """The sinks drop cached state and serve again."""
    total_s: float
    """From start to end, without `verify_s`."""
    verify_s: float = 0.0
    """Comparing checksums of every tensor, if that was asked for."""


def sum_of(first: PublishReport, second: PublishReport) -> PublishReport:
    """What both attempts at a version took; all else as the second says."""
    summed = [one.name for one in fields(PublishReport) if one.name.endswith("_s") or one.name == "num_moved_bytes"]
    return replace(second, **{name: getattr(first, name) + getattr(second, name) for name in summed})


class PhaseSeconds:
    """Adds up the time of phases.

    Example:
        >>> clock = PhaseSeconds()
        >>> with clock.phase("gather"):
        ...     pass
    """

    def __init__(self) -> None:
        self._started = monotonic()
        self._spent: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Counts the time of the block as that of the phase."""
        before = monotonic()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + monotonic() - before

    def __getitem__(self, name: str) -> float:
        return self._spent.get(name, 0.0)

    @property
    def total(self) -> float:
        """Seconds since this was made."""
        return monotonic() - self._started
