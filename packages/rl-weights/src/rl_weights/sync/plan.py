"""Who contributes what to which bucket, and who takes it: computed once, before the first publish.

Importing it does not import torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rl_weights.buckets import Bucket, bucket_of, pack, plan_buckets
from rl_weights.dtypes import num_bytes
from rl_weights.errors import SyncError
from rl_weights.protocols import TensorSpec
from rl_weights.rules import TensorRule


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerLayout:
    """Which of a trainer's ranks hold the parts of each Megatron tensor."""

    holders: Mapping[str, tuple[int, ...]]
    """Megatron name -> ranks that hold its tensor-parallel parts, in the order of the parts; of a tensor that every
    rank holds whole, one of them."""
    dtype: str
    """Of every tensor, such as "bfloat16"."""
    writer: int = 0
    """The rank that hands the weights on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayout:
    """An engine as the plan sees it."""

    name: str
    num_ranks: int = 1
    """Processes that hold a part of the model. Each takes whole buckets: the engine's own loader slices them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What ranks give to one bucket for one Megatron tensor."""

    rule: TensorRule
    ranks: tuple[int, ...]
    """Those that hold the parts, in their order."""
    part_shape: tuple[int, ...]
    dtype: str

    @property
    def part_bytes(self) -> int:
        """Size of each rank's part."""
        return num_bytes(self.dtype, self.part_shape)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The Hugging Face tensors that are made of it."""
        return specs_of(self.rule, self.dtype)


class Transfer(NamedTuple):
    """One line of a plan."""

    bucket: int
    rank: int
    """Of the trainer."""
    num_bytes: int
    """That this rank gives to the bucket."""
    engine: str
    engine_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """The buckets, and for each what every trainer rank contributes and which engines take it."""

    buckets: tuple[Bucket, ...]
    contributions: tuple[tuple[Contribution, ...], ...]
    """One tuple for each bucket; empty where the source gathers in its own way."""
    writer: int = 0
    engines: tuple[EngineLayout, ...] = ()

    def bytes_from(self, bucket: int, rank: int) -> int:
        """Bytes that a trainer rank contributes to a bucket."""
        return sum(one.part_bytes for one in self.contributions[bucket] if rank in one.ranks)

    def ranks_of(self, bucket: int) -> tuple[int, ...]:
        """The trainer ranks that contribute to a bucket, in ascending order."""
        return tuple(sorted({rank for one in self.contributions[bucket] for rank in one.ranks}))

    def transfers(self) -> Iterator[Transfer]:
        """Line by line which rank gives how much to which bucket for which engine rank."""
        for index, bucket in enumerate(self.buckets):
            ranks = self.ranks_of(index)
            given = {rank: self.bytes_from(index, rank) for rank in ranks} or {self.writer: bucket.num_bytes}
            for engine in self.engines:
                for engine_rank in range(engine.num_ranks):
                    for rank, size in given.items():
                        yield Transfer(index, rank, size, engine.name, engine_rank)


def plan_sharded(rules: Sequence[TensorRule], layout: TrainerLayout, bucket_bytes: int) -> SyncPlan:
    """A plan for a trainer whose weights are spread over ranks. Equal on every rank.

    The Hugging Face tensors of one rule travel together.

    Raises:
        SyncError: naming a tensor that no rank holds, or that cannot be in as many equal parts.
    """
    given = [_contribution(rule, layout) for rule in rules]
    packed = list(pack([one.specs for one in given], bucket_bytes))
    buckets: list[Bucket] = []
    contributions: list[tuple[Contribution, ...]] = []
    start = 0
    for units in packed:
        buckets.append(bucket_of([spec for unit in units for spec in unit]))
        contributions.append(tuple(given[start : start + len(units)]))
        start += len(units)
    return SyncPlan(buckets=tuple(buckets), contributions=tuple(contributions), writer=layout.writer)


def plan_whole(specs: Sequence[TensorSpec], bucket_bytes: int) -> SyncPlan:
    """A plan for a source that gives whole tensors."""
    buckets = plan_buckets(specs, bucket_bytes)
    return SyncPlan(buckets=buckets, contributions=((),) * len(buckets))


def specs_of(rule: TensorRule, dtype: str) -> tuple[TensorSpec, ...]:
    """The Hugging Face tensors of a rule."""
    return tuple((name, dtype, shape) for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True))


def _contribution(rule: TensorRule, layout: TrainerLayout) -> Contribution:
    ranks = layout.holders.get(rule.megatron_name, ())
    if not ranks:
        raise SyncError(f"{rule.megatron_name}: no rank of the trainer holds it")
    shape = list(rule.megatron_shape)
    if rule.tp_dim is None:
        ranks = ranks[:1]
    elif shape[rule.tp_dim] % len(ranks):
        raise SyncError(f"{rule.megatron_name}: {shape} is not in {len(ranks)} equal parts")
    else:
        shape[rule.tp_dim] //= len(ranks)
    return Contribution(rule=rule, ranks=ranks, part_shape=tuple(shape), dtype=layout.dtype)
