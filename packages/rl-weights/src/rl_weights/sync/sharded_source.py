"""A source whose tensors are spread over ranks, gathered as a plan says, one bucket ahead of who reads."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from rl_weights.checksum import as_bytes
from rl_weights.dtypes import dtype_name, dtype_named
from rl_weights.errors import SyncError
from rl_weights.protocols import TensorSpec
from rl_weights.rules import TensorRule
from rl_weights.sync.plan import Contribution, SyncPlan, TrainerLayout, plan_sharded, specs_of

_WINDOW_BYTES = 2**28
"""How much is gathered at a time for those who read tensor by tensor."""
_ALIGNMENT = 16
_NUM_SLOTS = 2
_DRAIN_S = 60.0
"""How long a writer that broke off waits for each further message of another rank."""
_LEAST_WAIT_S = 0.001
_FAILED = 1
"""The last byte of a message whose other bytes say what kept its rank from giving its parts, instead of them."""


class PartsError(SyncError):
    """A rank cannot give its parts. Raised on every rank, before anything was gathered."""


class GivingError(SyncError):
    """A rank cannot give its parts, in mid-pass. Raised on it and on the writer, when both came to the end of it."""


class GatheredTensor(NamedTuple):
    """A Megatron tensor whose parts have come."""

    contribution: Contribution
    parts: list[Tensor]
    """In the order of `contribution.ranks`."""

    def to_hf(self) -> Iterator[tuple[str, Tensor]]:
        """The Hugging Face tensors that it is made of."""
        rule = self.contribution.rule
        yield from zip(rule.hf_names, rule.to_hf(rule.unshard(self.parts)), strict=True)


class ShardedSource:
    """Satisfies `TensorSource`. Every rank of the trainer makes one with what it holds.

    Each part travels once, from the rank that holds it to the writer, in one message for a bucket; the messages of
    the next bucket are under way while the present one is read. Ranks that hold nothing that the writer needs, such as
    further data-parallel copies, send nothing.

    Args:
        rules: of the model, in the order in which tensors are given.
        layout: where the parts are; equal on every rank.
        parts: this rank's, by Megatron name. They are read at the time of the iteration.
        rank: of this process in `group`.
        group: all ranks of the trainer, who have used it before; None for a single one.

    Raises:
        SyncError: if there are no parts, which say on which device this rank works.
    """

    def __init__(
        self,
        *,
        rules: Sequence[TensorRule],
        layout: TrainerLayout,
        parts: Mapping[str, Tensor],
        rank: int,
        group: dist.ProcessGroup | None,
    ) -> None:
        if not parts:
            raise SyncError(f"rank {rank}: parts: expected at least one tensor, got none")
        self.rules = tuple(rules)
        self.layout = layout
        self._parts = parts
        self._rank = rank
        self._group = group
        self._empty = next(iter(parts.values())).detach().new_empty(0)
        self._iteration: Iterator[tuple[str, Tensor]] | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this rank hands the tensors on."""
        return self._rank == self.layout.writer

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._empty.device

    def tensor_specs(self) -> Sequence[TensorSpec]:
        """See `TensorSource.tensor_specs`."""
        return [spec for rule in self.rules for spec in specs_of(rule, self.layout.dtype)]

    def iter_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `TensorSource.iter_tensors`. Collective; see `finish`."""
        self._iteration = self._iterate(plan_sharded(self.rules, self.layout, _WINDOW_BYTES))
        return self._iteration

    def finish(self) -> None:
        """Ends an iteration that its caller has left, so that the other ranks do not wait for this one."""
        if self._iteration is not None:
            for _ in self._iteration:
                pass

    def agree(self, value: int) -> int:
        """The writer's value, on every rank. Collective."""
        if self._group is None:
            return value
        told = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.broadcast(told, group=self._group, group_src=self.layout.writer)
        return int(told.item())

    def gather(self, plan: SyncPlan) -> Iterator[list[GatheredTensor]]:
        """The tensors of each bucket, on the writer; nothing for each bucket elsewhere. Collective, to the end.

        What is given for a bucket is overwritten once the next is asked for. If the writer breaks off, it takes what
        the other ranks still send, so that they come to their end. If another rank cannot go on, it sends the reason
        instead, to the end.

        Raises:
            PartsError: on every rank, at once, if one of them does not hold what the plan says.
            GivingError: on the writer, naming a rank that could not go on, and at the end on that rank.
        """
        gathering = _Gathering(plan, self._parts, self._rank, self._group, self.device)
        self._agree_on_parts(gathering)
        return self._gathered(gathering, len(plan.buckets))

    def _agree_on_parts(self, gathering: "_Gathering") -> None:
        mine: Exception | None = None
        try:
            gathering.prepare()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks must not wait for this one
            mine = error
        failed = [0] if mine is not None else []
        if self._group is not None:
            told = torch.tensor([int(mine is not None)], dtype=torch.int64, device=self.device)
            of_ranks = [torch.empty_like(told) for _ in range(dist.get_world_size(self._group))]
            dist.all_gather(of_ranks, told, group=self._group)  # pyright: ignore[reportUnknownMemberType]
            failed = [rank for rank, one in enumerate(of_ranks) if one.item()]
        if mine is not None:
            raise PartsError(_reason(self._rank, mine)) from mine
        if failed:
            ranks = ", ".join(f"rank {rank}" for rank in failed)
            raise PartsError(f"{ranks}: cannot give all parts, see the error there; rank {self._rank} can")

    @torch.no_grad()
    def _gathered(self, gathering: "_Gathering", num_buckets: int) -> Iterator[list[GatheredTensor]]:
        try:
            gathering.start()
            for index in range(num_buckets):
                if index + 1 < num_buckets:
                    gathering.start()
                yield gathering.finish()
        except Exception:
            gathering.drain()
            raise
        gathering.close()

    def _iterate(self, plan: SyncPlan) -> Iterator[tuple[str, Tensor]]:
        for bucket, gathered in zip(plan.buckets, self.gather(plan), strict=True):
            if self.is_writer:
                for tensor in gathered:
                    yield from tensor.to_hf()
            else:
                yield from ((name, self._empty) for name, _, _ in bucket.specs)


class _Started(NamedTuple):
    """Messages of one bucket that are under way."""

    bucket: int
    works: list[dist.Work]
    flat_of: dict[int, Tensor]
    """Rank -> the bytes of all its parts ([bytes] uint8)."""


class _Gathering:
    """One pass over the buckets. A rank's parts lie in its message in the plan's order, each aligned; then a byte."""

    def __init__(
        self,
        plan: SyncPlan,
        parts: Mapping[str, Tensor],
        rank: int,
        group: dist.ProcessGroup | None,
        device: torch.device,
    ) -> None:
        self._plan, self._parts, self._rank, self._group, self._device = plan, parts, rank, group, device
        self._is_writer = rank == plan.writer
        self._buffers: dict[tuple[int, int], Tensor] = {}
        self._sent: list[list[dist.Work]] = [[] for _ in range(_NUM_SLOTS)]
        self._num_started = 0
        self._failure: Exception | None = None
        self._under_way: deque[_Started] = deque()

    def prepare(self) -> None:
        """Looks at all that this rank gives, and makes all buffers.

        Raises:
            SyncError: naming a tensor that is not as the plan says.
        """
        for index, contributions in enumerate(self._plan.contributions):
            for one in contributions:
                if self._rank in one.ranks:
                    self._own_part(one)
            for rank in self._plan.ranks_of(index):
                if (rank == self._rank) != self._is_writer:
                    self._buffer(index, rank)

    def start(self) -> None:
        """Begins to receive the next bucket on the writer, and to send where there is something to send."""
        index = self._num_started
        self._under_way.append(_Started(index, [], {}))
        self._num_started += 1
        if self._is_writer:
            self._receive(self._under_way[-1])
        elif self._rank in self._plan.ranks_of(index):
            slot = index % _NUM_SLOTS
            _wait(self._sent[slot])
            flat = self._buffer(index, self._rank)
            self._fill(flat, index)
            self._sent[slot] = self._exchange(dist.isend, {self._plan.writer: flat})

    def _fill(self, flat: Tensor, index: int) -> None:
        """Lays into a message this rank's parts of a bucket, or what kept it from giving parts."""
        try:
            if self._failure is None:
                for start, one in _placed(self._plan, index, self._rank):
                    flat[start : start + one.part_bytes].copy_(as_bytes(self._own_part(one)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must not wait for this rank
            self._failure = error
        flat[-1:].fill_(0 if self._failure is None else _FAILED)
        if self._failure is not None:
            reason = _reason(self._rank, self._failure).encode()[: flat.numel() - 1].ljust(flat.numel() - 1)
            flat[:-1].copy_(torch.frombuffer(bytearray(reason), dtype=torch.uint8))

    def finish(self) -> list[GatheredTensor]:
        """The tensors of the bucket that was begun first, on the writer, once all parts have come.

        Raises:
            GivingError: with what a rank sent instead of its parts.
        """
        started = self._under_way[0]
        _wait(started.works)
        self._under_way.popleft()
        if not self._is_writer:
            return []
        _require_parts(started.flat_of)
        received = {
            (rank, one.rule.megatron_name): _as_part(flat[start : start + one.part_bytes], one)
            for rank, flat in started.flat_of.items()
            for start, one in _placed(self._plan, started.bucket, rank)
        }
        return [
            GatheredTensor(
                one,
                [
                    self._own_part(one) if rank == self._rank else received[rank, one.rule.megatron_name]
                    for rank in one.ranks
                ],
            )
            for one in self._plan.contributions[started.bucket]
        ]

    def drain(self) -> None:
        """Takes, on the writer, all that the other ranks have sent or will send, and forgets it."""
        if not self._is_writer:
            return
        begun = [*self._under_way]  # the last one perhaps from some of its ranks only
        begun += [_Started(index, [], {}) for index in range(self._num_started, len(self._plan.buckets))]
        for started in begun:
            self._receive(started, is_forgotten=True)
        until = time.monotonic() + _DRAIN_S
        for work in [work for started in begun for work in started.works]:
            with suppress(RuntimeError):
                work.wait(timedelta(seconds=max(until - time.monotonic(), _LEAST_WAIT_S)))
                until = time.monotonic() + _DRAIN_S

    def close(self) -> None:
        """Waits for what is still being sent.

        Raises:
            GivingError: if this rank did not give all its parts.
        """
        for works in self._sent:
            _wait(works)
        if self._failure is not None:
            raise GivingError(_reason(self._rank, self._failure)) from self._failure

    def _receive(self, started: _Started, *, is_forgotten: bool = False) -> None:
        """Begins to receive what other ranks send for a bucket, from each whose message is not yet awaited.

        Args:
            started: gets each message once it is awaited, so that none is awaited twice.
            is_forgotten: goes on where a rank is gone, for others may be waiting.
        """
        flat_of = {
            rank: self._buffer(started.bucket, rank)
            for rank in self._plan.ranks_of(started.bucket)
            if rank != self._rank and rank not in started.flat_of
        }
        # NCCL receives beside each other only what is begun together, and begins all of it or nothing.
        is_together = self._device.type == "cuda" and not is_forgotten
        for batch in [flat_of] if is_together else [{rank: flat} for rank, flat in flat_of.items()]:
            with suppress(RuntimeError) if is_forgotten else nullcontext():
                started.works.extend(self._exchange(dist.irecv, batch))
                started.flat_of.update(batch)

    def _exchange(self, operation: object, flat_of: Mapping[int, Tensor]) -> list[dist.Work]:
        if not flat_of:
            return []
        operations = [
            dist.P2POp(operation, flat, group=self._group, group_peer=rank)  # pyright: ignore[reportArgumentType]
            for rank, flat in flat_of.items()
        ]
        return dist.batch_isend_irecv(operations)

    def _buffer(self, index: int, rank: int) -> Tensor:
        size = 1 + max((start + one.part_bytes for start, one in _placed(self._plan, index, rank)), default=0)
        key = (index % _NUM_SLOTS, rank)
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._buffers[key][:size]

    def _own_part(self, one: Contribution) -> Tensor:
        """See `prepare` for what it raises; in the middle of a pass too, where that is an error of this rank alone."""
        name = one.rule.megatron_name
        expected = f"rank {self._rank}: {name}: expected {one.dtype} {one.part_shape} on {self._device}"
        try:
            part = self._parts[name].detach()
        except KeyError:
            raise SyncError(f"{expected}, and there is no such part") from None
        if (dtype_name(part.dtype), tuple(part.shape), part.device) != (one.dtype, one.part_shape, self._device):
            raise SyncError(f"{expected}, got {dtype_name(part.dtype)} {tuple(part.shape)} on {part.device}")
        return part


def _placed(plan: SyncPlan, index: int, rank: int) -> Iterator[tuple[int, Contribution]]:
    """Where each of a rank's parts begins in its message."""
    start = 0
    for one in plan.contributions[index]:
        if rank in one.ranks:
            yield start, one
            start += -(-one.part_bytes // _ALIGNMENT) * _ALIGNMENT


def _reason(rank: int, error: Exception) -> str:
    return str(error) if isinstance(error, SyncError) else f"rank {rank}: {error!r}"


def _require_parts(flat_of: Mapping[int, Tensor]) -> None:
    """Looks at the last byte of each message; on a GPU that waits for them."""
    for flat in flat_of.values():
        if flat[-1].item() == _FAILED:
            raise GivingError(bytes(flat[:-1].cpu().numpy()).decode(errors="replace").strip())


def _as_part(flat: Tensor, one: Contribution) -> Tensor:
    return flat.view(dtype_named(one.dtype, one.rule.megatron_name)).view(one.part_shape)


def _wait(works: list[dist.Work]) -> None:
    while works:  # without one that failed, too: who waits twice for a message of gloo's waits for another one
        works.pop(0).wait()
