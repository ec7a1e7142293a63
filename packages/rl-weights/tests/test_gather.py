"""Gathering from real ranks of which one fails: the others fail with it or come to their end, and go on afterwards."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from rl_weights import Publisher, ShardedSource, SyncError, TrainerLayout
from rl_weights.rules import rules_for
from rl_weights.sync import sharded_source
from rl_weights.sync.sharded_source import GivingError
from rl_weights.sync.transports.disk import DiskTransport
from rl_weights.testing import InMemorySink

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 10, "tie_word_embeddings": True,
}  # fmt: skip
RULES = rules_for(CONFIG, vocab_multiple=4)
NAMES = [rule.megatron_name for rule in RULES]
NUM_RANKS = 3
SOON_S = 20
"""Much less than the half hour after which gloo itself gives up."""


class Parts(Mapping[str, Tensor]):
    """A rank's parts, of which one may fail when it is read for the second time, in the middle of a pass."""

    def __init__(self, parts: dict[str, Tensor]) -> None:
        self.parts = parts
        self.failing: str | None = None
        self.fail: Callable[[], None] = _raise
        self.delay_s = 0.0
        """That each reading takes."""
        self._num_reads = 0

    def __getitem__(self, name: str) -> Tensor:
        time.sleep(self.delay_s)
        if name == self.failing:
            self._num_reads += 1
            if self._num_reads == 2:
                self.fail()
        return self.parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _raise() -> None:
    raise RuntimeError("a part that cannot be read")


class Rank:
    """One of three ranks: rank 0 is the writer, and all hold a third of every tensor that is sliced."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.layout = TrainerLayout(
            holders={rule.megatron_name: (0,) if rule.tp_dim is None else (0, rank_of(rule)) for rule in RULES},
            dtype="float32",
        )
        generator = torch.Generator().manual_seed(0)
        whole = {rule.megatron_name: torch.randn(rule.megatron_shape, generator=generator) for rule in RULES}
        held = {
            rule.megatron_name: rule.shard(whole[rule.megatron_name], holders.index(rank), len(holders)).clone()
            for rule in RULES
            if rank in (holders := self.layout.holders[rule.megatron_name])
        }
        self.parts = Parts(held)
        self.sink = InMemorySink()
        source = ShardedSource(rules=RULES, layout=self.layout, parts=self.parts, rank=rank, group=dist.group.WORLD)
        # Four buckets, with parts of all ranks in each.
        self.publisher = Publisher(source, [self.sink] if rank == 0 else [], bucket_bytes=7000)

    @property
    def is_writer(self) -> bool:
        return self.rank == 0


def rank_of(rule) -> int:
    """Of the two that are no writers, the one that holds the other half of a tensor."""
    return 1 + NAMES.index(rule.megatron_name) % 2


def writer_breaks_off(one: Rank) -> None:
    if one.is_writer:
        one.parts.failing = NAMES[len(NAMES) // 2]
        with pytest.raises(RuntimeError, match="a part that cannot be read"):
            one.publisher.publish(2)
        assert one.sink.weight_version() != 2
        one.parts.failing = None
    else:
        one.publisher.publish(2)


def a_part_of_the_writer_changes(one: Rank) -> None:
    name = NAMES[len(NAMES) // 2]
    right = one.parts.parts.get(name)
    if one.is_writer:
        one.parts.failing, one.parts.fail = name, lambda: one.parts.parts.update({name: torch.ones(3)})
        with pytest.raises(SyncError, match=rf"rank 0: {name}: expected .*, got float32 \(3,\) on cpu"):
            one.publisher.publish(2)
        one.parts.failing, one.parts.parts[name] = None, right
    else:
        one.publisher.publish(2)


def rank_2_cannot_go_on(fail: Callable[[Rank], None], says: str, one: Rank) -> None:
    """It fails in mid-pass and lives on. Rank 1 gives all that it holds."""
    name = [name for name in NAMES if 2 in one.layout.holders[name]][2]
    right = one.parts.parts.get(name)
    if one.rank == 2:
        one.parts.failing, one.parts.fail = name, partial(fail, one)
    if one.rank == 1:
        one.publisher.publish(2)
    else:
        with pytest.raises(GivingError, match=says.format(name=name)):
            one.publisher.publish(2)
    if one.is_writer:
        assert one.sink.weight_version() is None
    one.parts.failing = None
    if one.rank == 2:
        one.parts.parts[name] = right


def reading_fails(_: Rank) -> None:
    _raise()


def its_part_changes(one: Rank) -> None:
    one.parts.parts[one.parts.failing] = torch.ones(3)


def a_receive_of_the_writer_cannot_begin(one: Rank) -> None:
    """The one from rank 2 in the second bucket; that from rank 1 has begun."""
    receive, num_begun = dist.ProcessGroup.recv, 0

    def failing(group, tensors, source, tag):
        nonlocal num_begun
        num_begun += source == 2
        if source == 2 and num_begun == 2:
            raise RuntimeError("no receive can begin")
        return receive(group, tensors, source, tag)

    if one.is_writer:
        dist.ProcessGroup.recv = failing
        with pytest.raises(RuntimeError, match="no receive can begin"):
            one.publisher.publish(2)
        dist.ProcessGroup.recv = receive
    else:
        one.publisher.publish(2)


def slow_ranks_go_on_when_the_writer_breaks_off(one: Rank) -> None:
    """All that they send takes longer than the writer waits for a message, each message less."""
    if one.is_writer:
        sharded_source._DRAIN_S = 1.5
        one.parts.failing = NAMES[0]
        with pytest.raises(RuntimeError, match="a part that cannot be read"):
            one.publisher.publish(2)
        one.parts.failing = None
    else:
        one.parts.delay_s = 0.3
        one.publisher.publish(2)
        one.parts.delay_s = 0.0


def rank_2_holds(wrong: Callable[[Tensor], Tensor] | None, says: str, one: Rank) -> None:
    """Of one tensor it has what `wrong` makes of the right part, or nothing."""
    name = next(rule.megatron_name for rule in reversed(RULES) if 2 in one.layout.holders[rule.megatron_name])
    message = f"^rank 2: cannot give all parts, see the error there; rank {one.rank} can$"
    if one.rank == 2:
        right = one.parts.parts.pop(name)
        if wrong is not None:
            one.parts.parts[name] = wrong(right)
        message = rf"^rank 2: {name}: expected float32 \(.*\) on cpu, {says}$"
    with pytest.raises(SyncError, match=message):
        one.publisher.publish(2)
    if one.rank == 2:
        one.parts.parts[name] = right
    if one.is_writer:
        assert one.sink.weight_version() == 1, "no sink was called"


FAILURES = {
    "writer breaks off": writer_breaks_off,
    "a receive cannot begin": a_receive_of_the_writer_cannot_begin,
    "slow ranks": slow_ranks_go_on_when_the_writer_breaks_off,
    "a part of the writer changes": a_part_of_the_writer_changes,
    "another rank breaks off": partial(rank_2_cannot_go_on, reading_fails, "^rank 2: .*a part that cannot be read"),
    "a part of another rank changes": partial(rank_2_cannot_go_on, its_part_changes, "^rank 2: {name}: expected"),
    "another shape": partial(rank_2_holds, lambda _: torch.ones(3), r"got float32 \(3,\) on cpu"),
    "another dtype of that size": partial(rank_2_holds, lambda part: part.int(), r"got int32 \(.*\) on cpu"),
    "another device": partial(rank_2_holds, lambda part: part.to("meta"), r"got float32 \(.*\) on meta"),
    "no such part": partial(rank_2_holds, None, "and there is no such part"),
}


def be_rank(rank: int, store: str, fails: Callable[[Rank], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, NUM_RANKS), rank=rank, world_size=NUM_RANKS)
    one = Rank(rank)
    one.publisher.publish(1, verify=True)
    fails(one)
    one.publisher.publish(3, verify=True)
    if one.is_writer:
        assert one.sink.weight_version() == 3
    dist.barrier()


def a_rank_is_gone(rank: int, store: str, _: object) -> None:
    """Rank 2 ends in the middle of a pass: the writer fails, and rank 1 comes to an end, be it good or bad."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, NUM_RANKS), rank=rank, world_size=NUM_RANKS)
    one = Rank(rank)
    one.publisher.publish(1)
    if rank == 2:
        one.parts.fail = lambda: os._exit(0)
        one.parts.failing = next(name for name in reversed(NAMES) if 2 in one.layout.holders[name])
    with pytest.raises(RuntimeError) if one.is_writer else suppress(RuntimeError):
        one.publisher.publish(2)


def run_ranks(target: Callable[..., None], folder: Path, fails: object = None) -> None:
    context = multiprocessing.get_context("fork")  # to import torch once
    ranks = [context.Process(target=target, args=(rank, str(folder / "store"), fails)) for rank in range(NUM_RANKS)]
    started = time.monotonic()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(max(0.0, started + SOON_S - time.monotonic()))
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * NUM_RANKS


@pytest.mark.parametrize("fails", FAILURES.values(), ids=FAILURES)
def test_ranks_come_to_an_end_together_and_publish_again(fails, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run_ranks(be_rank, tmp_path, fails)


def test_nobody_waits_for_a_rank_that_is_gone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run_ranks(a_rank_is_gone, tmp_path)


def test_a_publish_that_broke_off_is_followed_by_a_whole_version(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = Parts({rule.megatron_name: torch.randn(rule.megatron_shape, generator=generator) for rule in RULES})
    layout = TrainerLayout(holders=dict.fromkeys(parts, (0,)), dtype="float32")
    source = ShardedSource(rules=RULES, layout=layout, parts=parts, rank=0, group=None)
    sink = InMemorySink()
    publisher = Publisher(source, [sink], bucket_bytes=3000, transport=DiskTransport(tmp_path, "delta"))
    publisher.publish(1)
    parts.parts[NAMES[0]] += 1
    parts.failing = NAMES[-1]
    with pytest.raises(RuntimeError, match="a part that cannot be read"):
        publisher.publish(2)
    assert sink.weight_version() == 1
    num_bytes = 4 * sum(tensor.numel() for tensor in parts.values())
    assert publisher.publish(3, verify=True).num_moved_bytes > num_bytes
