"""Which tensors travel together, and where each lies in its bucket."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rl_weights.dtypes import dtype_named, num_bytes
from rl_weights.protocols import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Tensors that lie end to end in one buffer."""

    specs: tuple[TensorSpec, ...]
    num_bytes: int


def plan_buckets(specs: Sequence[TensorSpec], bucket_bytes: int) -> tuple[Bucket, ...]:
    """The tensors in their order, as many in each bucket as fit; one that is larger than a bucket has its own.

    Raises:
        CheckpointError: naming a tensor whose dtype cannot be sent.
    """
    return tuple(bucket_of([spec for (spec,) in units]) for units in pack([[spec] for spec in specs], bucket_bytes))


def pack(units: Sequence[Sequence[TensorSpec]], bucket_bytes: int) -> Iterator[list[Sequence[TensorSpec]]]:
    """The units of each bucket, in their order; the tensors of a unit stay together."""
    chosen: list[Sequence[TensorSpec]] = []
    size = 0
    for unit in units:
        unit_bytes = bucket_of(unit).num_bytes
        if chosen and size + unit_bytes > bucket_bytes:
            yield chosen
            chosen, size = [], 0
        chosen.append(unit)
        size += unit_bytes
    if chosen:
        yield chosen


def bucket_of(specs: Sequence[TensorSpec]) -> Bucket:
    """A bucket of these tensors."""
    for name, dtype, _ in specs:
        dtype_named(dtype, name)
    return Bucket(specs=tuple(specs), num_bytes=sum(num_bytes(dtype, shape) for _, dtype, shape in specs))
