"""Which tensors travel together, and where each lies in its bucket."""

from collections.abc import Sequence
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
    buckets: list[Bucket] = []
    chosen: list[TensorSpec] = []
    size = 0
    for name, dtype, shape in specs:
        dtype_named(dtype, name)
        tensor_bytes = num_bytes(dtype, shape)
        if chosen and size + tensor_bytes > bucket_bytes:
            buckets.append(Bucket(specs=tuple(chosen), num_bytes=size))
            chosen, size = [], 0
        chosen.append((name, dtype, shape))
        size += tensor_bytes
    if chosen:
        buckets.append(Bucket(specs=tuple(chosen), num_bytes=size))
    return tuple(buckets)
