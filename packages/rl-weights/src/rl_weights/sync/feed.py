"""Fills buckets from a source, in the order of a plan."""

from collections.abc import Iterator
from typing import Protocol

import torch

from rl_weights.dtypes import dtype_name
from rl_weights.errors import SyncError
from rl_weights.protocols import TensorSource, TensorSpec
from rl_weights.sync.bucket_buffers import copy_into
from rl_weights.sync.plan import SyncPlan
from rl_weights.sync.report import PhaseSeconds
from rl_weights.sync.sharded_source import GatheredTensor, ShardedSource


class Feed(Protocol):
    """One pass over the tensors of a source."""

    def device(self) -> torch.device:
        """Where the tensors are. May wait for the first.

        Raises:
            SyncError: if there is none.
        """
        ...

    def fill(self, index: int, buffer: torch.Tensor) -> None:
        """Lays the next bucket's tensors into the buffer ([bytes] uint8); to be called for each, in their order.

        Raises:
            SyncError: naming a tensor that is not as the plan says.
        """
        ...

    def finish(self) -> None:
        """Goes to the source's end, so that its other ranks do not wait.

        Raises:
            SyncError: naming a tensor that comes after the last.
        """
        ...


def open_feed(source: TensorSource, plan: SyncPlan, clock: PhaseSeconds, where: str) -> Feed:
    """The feed of a source. Times go to the phases gather and convert; `where` begins messages.

    Raises:
        PartsError: see `ShardedSource.gather`.
    """
    if isinstance(source, ShardedSource):
        return _ShardedFeed(source, plan, clock, where)
    return _WholeFeed(source, plan, clock, where)


class _WholeFeed:
    """Takes tensors as the source gives them."""

    def __init__(self, source: TensorSource, plan: SyncPlan, clock: PhaseSeconds, where: str) -> None:
        self._tensors = source.iter_tensors()
        self._plan, self._clock, self._where = plan, clock, where
        self._first: tuple[str, torch.Tensor] | None = None

    def device(self) -> torch.device:
        self._first = self._next()
        if self._first is None:
            num_tensors = sum(len(bucket.specs) for bucket in self._plan.buckets)
            raise SyncError(f"{self._where}: the source gave none of its {num_tensors} tensors")
        return self._first[1].device

    def fill(self, index: int, buffer: torch.Tensor) -> None:
        stop = 0
        for spec in self._plan.buckets[index].specs:
            got = _checked(spec, self._next(), self._where)
            with self._clock.phase("convert"):
                stop = copy_into(buffer, stop, got)

    def finish(self) -> None:
        extra = next(self._tensors, None)
        for _ in self._tensors:
            pass
        if extra is not None:
            raise SyncError(f"{self._where}: the source gave {extra[0]} after the last of its specs")

    def _next(self) -> tuple[str, torch.Tensor] | None:
        if self._first is not None:
            got, self._first = self._first, None
            return got
        with self._clock.phase("gather"):
            return next(self._tensors, None)


class _ShardedFeed:
    """Takes the parts that ranks hold, bucket by bucket, while the next bucket's are under way."""

    def __init__(self, source: ShardedSource, plan: SyncPlan, clock: PhaseSeconds, where: str) -> None:
        self._source, self._plan, self._clock, self._where = source, plan, clock, where
        self._gathered: Iterator[list[GatheredTensor]] = source.gather(plan)

    def device(self) -> torch.device:
        return self._source.device

    def fill(self, index: int, buffer: torch.Tensor) -> None:
        with self._clock.phase("gather"):
            gathered = next(self._gathered)
        specs = iter(self._plan.buckets[index].specs)
        stop = 0
        with self._clock.phase("convert"):
            for tensor in gathered:
                for named in tensor.to_hf():
                    stop = copy_into(buffer, stop, _checked(next(specs), named, self._where))

    def finish(self) -> None:
        for _ in self._gathered:
            pass


def _checked(spec: TensorSpec, got: tuple[str, torch.Tensor] | None, where: str) -> torch.Tensor:
    name, dtype, shape = spec
    if got is None:
        raise SyncError(f"{where}: the source ended before {name}")
    actual = (got[0], dtype_name(got[1].dtype), tuple(got[1].shape))
    if actual != (name, dtype, shape):
        raise SyncError(f"{where}: the source's specs say {(name, dtype, shape)}, it gave {actual}")
    return got[1]
