"""Plans, transports and versions, without an engine. Real ranks and engines: tests/contracts/test_sync.py."""

import json
import logging
import mmap
import multiprocessing
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_weights import Publisher, ShardedSource, SyncConfig, SyncError, TrainerLayout
from rl_weights.rules import rules_for
from rl_weights.sync.delta import apply_delta, make_delta
from rl_weights.sync.plan import EngineLayout, Transfer, plan_sharded
from rl_weights.sync.read_version import read_version
from rl_weights.sync.sink_worker import SinkWorker
from rl_weights.sync.transports.disk import DiskTransport
from rl_weights.sync.transports.group import GroupTransport
from rl_weights.testing import InMemorySink, check_tensor_source, resident_bytes

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 10, "tie_word_embeddings": True,
}  # fmt: skip
RULES = rules_for(CONFIG, vocab_multiple=4)
NUM_TENSORS = sum(len(rule.hf_names) for rule in RULES)


def whole_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Megatron tensors by name."""
    rng = torch.Generator().manual_seed(seed)
    return {rule.megatron_name: torch.randn(rule.megatron_shape, generator=rng) for rule in RULES}


def one_rank(tensors: dict[str, torch.Tensor]) -> ShardedSource:
    layout = TrainerLayout(holders=dict.fromkeys(tensors, (0,)), dtype="float32")
    return ShardedSource(rules=RULES, layout=layout, parts=tensors, rank=0, group=None)


def two_stages_of_two_parts() -> TrainerLayout:
    """Ranks 0 and 1 hold the embedding and layer 0, ranks 2 and 3 the rest."""
    first = ("embedding.", "decoder.layers.0.")
    return TrainerLayout(
        holders={rule.megatron_name: (0, 1) if rule.megatron_name.startswith(first) else (2, 3) for rule in RULES},
        dtype="float32",
    )


def expected(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The Hugging Face tensors."""
    return {
        name: tensor
        for rule in RULES
        for name, tensor in zip(rule.hf_names, rule.to_hf(tensors[rule.megatron_name]), strict=True)
    }


def holds(sink: InMemorySink, tensors: dict[str, torch.Tensor]) -> bool:
    wanted = expected(tensors)
    return sink.tensors.keys() == wanted.keys() and all(
        torch.equal(sink.tensors[name], wanted[name]) for name in wanted
    )


def test_a_plan_says_which_rank_gives_what_to_which_bucket_for_which_engine_rank() -> None:
    engines = (EngineLayout(name="engine 0", num_ranks=2), EngineLayout(name="engine 1"))
    plan = replace(plan_sharded(RULES, two_stages_of_two_parts(), 9000), engines=engines)
    names = [name for bucket in plan.buckets for name, _, _ in bucket.specs]
    assert names == [name for rule in RULES for name in rule.hf_names]
    embedding, norm, qkv = (plan.contributions[0][n] for n in range(3))
    # [12, 16] with its padding, float32, in two parts; a norm, from one rank; [64, 16] in two parts.
    assert (embedding.ranks, embedding.part_shape, embedding.part_bytes) == ((0, 1), (6, 16), 384)
    assert (norm.ranks, norm.part_shape) == ((0,), (16,))
    assert plan.bytes_from(0, 0) == sum(one.part_bytes for one in plan.contributions[0])
    transfers = list(plan.transfers())
    assert transfers[0] == Transfer(0, 0, plan.bytes_from(0, 0), "engine 0", 0)
    assert {(line.engine, line.engine_rank) for line in transfers} == {
        ("engine 0", 0),
        ("engine 0", 1),
        ("engine 1", 0),
    }
    assert qkv.ranks == (0, 1)
    assert plan.ranks_of(len(plan.buckets) - 1) == (2, 3)


def test_a_tensor_that_no_rank_holds_is_named() -> None:
    layout = two_stages_of_two_parts()
    partial = replace(layout, holders={**layout.holders, "decoder.final_layernorm.weight": ()})
    with pytest.raises(SyncError, match=r"decoder\.final_layernorm\.weight: no rank of the trainer holds it"):
        plan_sharded(RULES, partial, 1000)
    thirds = replace(layout, holders={**layout.holders, "embedding.word_embeddings.weight": (0, 1, 2, 3, 4)})
    with pytest.raises(SyncError, match=r"word_embeddings\.weight: \[12, 16\] is not in 5 equal parts"):
        plan_sharded(RULES, thirds, 1000)


def test_a_source_of_one_rank_is_a_source() -> None:
    check_tensor_source(one_rank(whole_tensors()))
    wrong = {**whole_tensors(), "decoder.final_layernorm.weight": torch.ones(3)}
    with pytest.raises(
        SyncError, match=r"final_layernorm\.weight: expected float32 \(16,\) on cpu, got float32 \(3,\)"
    ):
        Publisher(one_rank(wrong), [InMemorySink()]).publish(1)


def test_a_rank_without_parts_is_refused() -> None:
    layout = TrainerLayout(holders={}, dtype="float32")
    with pytest.raises(SyncError, match=r"^rank 3: parts: expected at least one tensor, got none$"):
        ShardedSource(rules=RULES, layout=layout, parts={}, rank=3, group=None)


def test_a_rank_that_cannot_give_its_part_fails_at_once() -> None:
    class Unheard(ShardedSource):
        def agree(self, value: int) -> int:
            raise AssertionError("the writer answers when it has every part")

    tensors = whole_tensors()
    layout = TrainerLayout(holders=dict.fromkeys(tensors, (0, 1)), dtype="float32")
    source = Unheard(rules=RULES, layout=layout, parts=tensors, rank=1, group=None)
    with pytest.raises(SyncError, match=r"rank 1: .*word_embeddings\.weight: expected .* \(6, 16\) .* \(12, 16\)"):
        Publisher(source, []).publish(1)


def be_rank(rank: int, store: str) -> None:
    """One of four ranks: publishes at several bucket sizes, then to a sink that fails and is tried again."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 4), rank=rank, world_size=4)
    layout, tensors = two_stages_of_two_parts(), whole_tensors()
    parts: dict[str, torch.Tensor] = {}
    for rule in RULES:
        holders = layout.holders[rule.megatron_name]
        if rank in holders:
            parts[rule.megatron_name] = rule.shard(tensors[rule.megatron_name], holders.index(rank), 2).clone()
    source = ShardedSource(rules=RULES, layout=layout, parts=parts, rank=rank, group=dist.group.WORLD)
    sink = InMemorySink()
    for bucket_bytes in (1, 3000, 2**20):
        publisher = Publisher(source, [sink] if rank == 0 else [], bucket_bytes=bucket_bytes)
        for version in (1, 2):
            publisher.publish(version, verify=True)
    sink.fail_at = "commit_update"
    if rank == 0:
        with pytest.raises(SyncError, match="fails on purpose"):
            publisher.publish(3)
    else:
        publisher.publish(3)
    sink.fail_at = None
    publisher.publish(4)
    if rank == 0:
        assert sink.weight_version() == 4
        assert holds(sink, tensors)
    dist.barrier()


def test_four_ranks_of_two_stages_send_their_parts_to_the_writer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")  # to import torch once
    ranks = [context.Process(target=be_rank, args=(rank, str(tmp_path / "store"))) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * 4


@given(
    width=st.sampled_from([1, 2, 4, 8]),
    size=st.integers(0, 300),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    shift=st.integers(0, 7),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_a_delta_turns_one_version_into_the_other_and_back(width, size, share, shift, seed) -> None:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 256, shift + size * width, dtype=np.uint8)[shift:]
    after = before.copy()
    for element in np.flatnonzero(rng.random(size) < share):
        after[element * width + rng.integers(width)] ^= rng.integers(1, 256, dtype=np.uint8)
    delta = make_delta(before, after, width)
    changed = np.any((before != after).reshape(size, width), axis=1).sum() if size else 0
    assert delta.num_changed == changed
    content = np.concatenate([np.zeros(shift, np.uint8), before])[shift:]
    apply_delta(content, delta.content, delta.num_changed, width)
    assert np.array_equal(content, after)
    apply_delta(content, delta.content, delta.num_changed, width)
    assert np.array_equal(content, before)


def test_a_delta_of_another_tensor_is_refused() -> None:
    delta = make_delta(np.zeros(8, np.uint8), np.ones(8, np.uint8), 4)
    with pytest.raises(ValueError, match="1 changes take 8 bytes, got 16"):
        apply_delta(np.zeros(8, np.uint8), delta.content, 1, 4)
    with pytest.raises(ValueError, match="a change at element 1 of 1"):
        apply_delta(np.zeros(4, np.uint8), delta.content, 2, 4)


@pytest.fixture(params=["gloo", "disk (full)", "disk (delta)"])
def transport(request, tmp_path):
    return GroupTransport("gloo") if request.param == "gloo" else DiskTransport(tmp_path, request.param[6:-1])


def test_every_transport_brings_every_version_to_every_sink(transport) -> None:
    tensors = whole_tensors()
    sinks = [InMemorySink(f"engine {number}") for number in range(2)]
    publisher = Publisher(one_rank(tensors), sinks, bucket_bytes=3000, transport=transport)
    for version in range(1, 5):
        tensors["decoder.final_layernorm.weight"] += 1
        report = publisher.publish(version, verify=True)
        assert (report.version, report.transport, report.num_tensors) == (version, transport.name, NUM_TENSORS)
        assert all(holds(sink, tensors) and sink.weight_version() == version for sink in sinks)
    assert [layout.name for layout in publisher.plan_with_engines().engines] == ["engine 0", "engine 1"]
    publisher.close()


@pytest.mark.parametrize("call", ["join_group", "begin_update", "receive_bucket", "load_version", "commit_update"])
def test_a_sink_that_fails_gets_the_whole_version_again_before_the_publish_ends(transport, call) -> None:
    class FailsOnce(InMemorySink):
        def _enter(self, entered):
            if entered == call:
                self.fail_at = None if self.has_failed else call
                self.has_failed = True
            super()._enter(entered)

        has_failed = False

    tensors = whole_tensors()
    bad, good = FailsOnce("bad"), InMemorySink("good")
    publisher = Publisher(one_rank(tensors), [bad, good], bucket_bytes=3000, transport=transport)
    publisher.publish(1, verify=True)
    assert holds(bad, tensors)
    assert holds(good, tensors)
    assert bad.weight_version() == good.weight_version() == 1


def test_the_report_of_a_version_that_went_twice_has_the_times_of_both() -> None:
    class SlowAtFirst(InMemorySink):
        def _enter(self, entered):
            self.num_entered[entered] += 1
            if self.num_entered["begin_update"] == 1:
                time.sleep({"begin_update": 0.05, "load_bucket": 0.01, "commit_update": 0.05}[entered])
                self.fail_at = entered if entered == "commit_update" else None
            else:
                self.fail_at = None
            super()._enter(entered)

        def __init__(self) -> None:
            super().__init__()
            self.num_entered: Counter[str] = Counter()

    sink = SlowAtFirst()
    report = Publisher(one_rank(whole_tensors()), [sink], bucket_bytes=3000).publish(1)
    assert sink.num_entered["commit_update"] == 2
    assert report.num_moved_bytes == 2 * report.num_bytes
    assert report.begin_s > 0.05
    assert report.load_s > 0.01 * report.num_buckets
    assert report.flush_s > 0.05
    assert report.total_s > 0.1 + 0.01 * report.num_buckets


def test_a_sink_that_was_restarted_in_mid_publish_gets_everything(transport) -> None:
    class Restarting(InMemorySink):
        def _enter(self, entered):
            if entered in ("receive_bucket", "load_version") and not self.has_restarted:
                self.__init__(self.name)
                self.has_restarted = True
                raise ConnectionError("another process answers here")
            super()._enter(entered)

        has_restarted = False

    tensors = whole_tensors()
    sink = Restarting("restarting")
    Publisher(one_rank(tensors), [sink], bucket_bytes=3000, transport=transport).publish(7)
    assert sink.has_restarted
    assert sink.weight_version() == 7
    assert holds(sink, tensors)


def test_a_sink_is_not_taken_for_stuck_while_its_failure_is_being_noted() -> None:
    class Slow(logging.Handler):
        """Holds the sink's thread up between the failure and the end of its call."""

        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.3)

    sink, log, slow = InMemorySink("bad", fail_at="load_bucket"), logging.getLogger("rl_weights.sync"), Slow()
    worker = SinkWorker(0, sink, 5.0)
    log.addHandler(slow)
    try:
        call = worker.submit("bucket", "load_bucket", lambda: sink.load_bucket([], torch.empty(0), ""))
        while worker.failure is None:
            time.sleep(0.001)
        worker.wait(call)
        assert not worker.is_stuck
    finally:
        log.removeHandler(slow)
        worker.close()


def wait_for_threads_left_alone(sink: str) -> None:
    """Waits until the writer no longer waits for the sink in torch.

    A process aborts if Python ends at the moment in which a thread comes back from there.
    """
    for thread in threading.enumerate():
        if thread.name in (f"join the group of {sink}", f"broadcast to {sink}"):
            thread.join(10)


@pytest.mark.parametrize("call", ["join_group", "receive_bucket"])
def test_a_sink_that_hangs_in_its_group_holds_the_others_up_no_longer_than_its_deadline(call) -> None:
    tensors = whole_tensors()
    stuck, good = InMemorySink("stuck", hang_at=call), InMemorySink("good")
    publisher = Publisher(
        one_rank(tensors), [stuck, good], bucket_bytes=3000, deadline_s=0.5, transport=GroupTransport("gloo")
    )
    started = time.monotonic()
    with pytest.raises(SyncError, match=rf"1 of 2 sinks failed: stuck: {call}.*no answer within 0\.5 s"):
        publisher.publish(1)
    assert time.monotonic() - started < 5  # 0.5 s, and room for a busy machine
    assert good.weight_version() == 1
    assert holds(good, tensors)
    stuck.release.set()
    wait_for_threads_left_alone("stuck")


def test_a_group_meets_at_a_port_of_the_given_host_too() -> None:
    class Remote(InMemorySink):
        def join_group(self, address, backend, timeout_s):
            self.address, self.threads = address, {thread.name for thread in threading.enumerate()}
            host, _, port = address.removeprefix("tcp://").partition(":")
            store = torch.distributed.TCPStore(host, int(port), is_master=False)
            store.set("met", "yes")
            raise RuntimeError("that is enough")

    sink = Remote("remote")
    transport = GroupTransport("gloo", host="127.0.0.1")
    with pytest.raises(SyncError, match="that is enough"):
        Publisher(one_rank(whole_tensors()), [sink], deadline_s=1, transport=transport).publish(1)
    assert sink.address.startswith("tcp://127.0.0.1:")
    assert "join the group of remote" in sink.threads
    wait_for_threads_left_alone("remote")


def test_versions_on_a_disk_describe_themselves_and_old_ones_go(tmp_path: Path) -> None:
    tensors = whole_tensors()
    transport = DiskTransport(tmp_path, "delta", deltas_per_full=2)
    publisher = Publisher(one_rank(tensors), [], bucket_bytes=3000, transport=transport)
    kinds: list[list[str]] = []
    for version in range(1, 7):
        tensors["decoder.layers.0.mlp.linear_fc2.weight"][0, 0] += 1
        publisher.publish(version)
        [stream] = tmp_path.iterdir()
        kinds.append([folder.name[9:] for folder in sorted(stream.glob("0*"))])
        found = read_version(sorted(stream.glob("0*"))[-1])
        assert all(torch.equal(found[name], tensor) for name, tensor in expected(tensors).items())
    assert kinds == [["full"], ["full", "delta"], ["full", "delta", "delta"]] * 2
    manifest = json.loads((sorted(stream.glob("0*"))[-1] / "manifest.json").read_text())
    assert (manifest["kind"], manifest["version"], manifest["base"]) == ("delta", 6, "00000005.delta")
    [bucket] = manifest["buckets"]
    [tensor] = bucket["tensors"]
    assert tensor["name"] == "model.layers.0.mlp.down_proj.weight"
    assert (tensor["dtype"], tensor["shape"], tensor["num_changed"]) == ("float32", [16, 24], 1)
    publisher.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "schema", "base"])
def test_a_damaged_version_is_named(tmp_path: Path, damage: str) -> None:
    tensors = whole_tensors()
    publisher = Publisher(one_rank(tensors), [], transport=DiskTransport(tmp_path, "delta"))
    publisher.publish(1)
    tensors["decoder.final_layernorm.weight"] += 1
    publisher.publish(2)
    [stream] = tmp_path.iterdir()
    full, delta = sorted(stream.glob("0*"))
    [file] = full.glob("*.bin")
    manifest = delta / "manifest.json"
    match damage:
        case "flip":
            content = bytearray(file.read_bytes())
            content[100] ^= 1
            file.write_bytes(content)
        case "truncate":
            file.write_bytes(file.read_bytes()[:-4])
        case "remove":
            file.unlink()
        case "manifest":
            manifest.write_bytes(manifest.read_bytes()[:-9])
        case "schema":
            manifest.write_text(manifest.read_text().replace('"schema":1', '"schema":2'))
        case "base":
            manifest.write_text(manifest.read_text().replace(full.name, "../../elsewhere"))
    with pytest.raises(SyncError, match=str(stream)):
        read_version(delta)


def test_a_version_that_the_disk_refuses_is_named_and_the_next_one_is_whole(tmp_path: Path) -> None:
    tensors = whole_tensors()
    sink = InMemorySink()
    publisher = Publisher(one_rank(tensors), [sink], bucket_bytes=3000, transport=DiskTransport(tmp_path, "delta"))
    publisher.publish(1)
    [stream] = tmp_path.iterdir()
    (stream / "00000002.delta").write_text("in the way")
    tensors["embedding.word_embeddings.weight"] += 1
    with pytest.raises(SyncError, match=r"00000002\.delta: version 2 not written: .*Not a directory"):
        publisher.publish(2)
    assert sink.weight_version() == 1, "what could not be written takes nothing from a sink"
    assert publisher.publish(3, verify=True).num_moved_bytes > 4 * sum(tensor.numel() for tensor in tensors.values())
    assert holds(sink, tensors)


def test_memory_that_processes_share_is_counted() -> None:
    before = resident_bytes(os.getpid())
    with mmap.mmap(-1, 2**24) as shared:
        shared[::4096] = b"x" * 4096
        assert abs(resident_bytes(os.getpid()) - before - 2**24) < 2**22


def test_fifty_publishes_leave_no_growth_of_host_memory(transport) -> None:
    tensors = whole_tensors()
    tensors["embedding.word_embeddings.weight"] = torch.randn(12, 16)
    publisher = Publisher(one_rank(tensors), [InMemorySink()], bucket_bytes=3000, transport=transport)

    def publish(first: int, number: int) -> float:
        for version in range(first, first + number):
            tensors["decoder.final_layernorm.weight"] += 1
            publisher.publish(version)
        return resident_bytes(os.getpid()) / 2**20

    before, num_threads = publish(1, 10), threading.active_count()
    growth = publish(11, 50) - before
    assert growth < 4  # MiB; allocators keep a little, one thread's stack alone would be 8
    assert threading.active_count() <= num_threads + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transport": "disk"}, "a folder belongs to the transport disk"),
        ({"transport": "gloo", "folder": Path("x")}, "a folder belongs to the transport disk"),
        ({"mode": "delta"}, "mode delta belongs to the transport disk"),
        ({"host": "10.0.0.1"}, "a host belongs to the transports gloo and nccl, got auto"),
        (
            {"transport": "gloo", "keep_buffers": True},
            "keep_buffers belongs to the transports auto, cuda_ipc and nccl, got gloo",
        ),
        (
            {"transport": "gloo2"},
            r"^sync: transport: expected one of auto, cuda_ipc, host, gloo, nccl, disk, got 'gloo2'$",
        ),
        ({"transport": "disk", "folder": Path("x"), "mode": "detla"}, "mode: expected one of full, delta, got 'detla'"),
    ],
)
def test_settings_that_are_wrong_or_without_effect_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        SyncConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "auto"),
        ({"transport": "cuda_ipc"}, "cuda_ipc"),
        ({"transport": "host"}, "host"),
        ({"transport": "nccl"}, "nccl"),
        ({"transport": "disk", "folder": Path("x"), "mode": "delta"}, "disk (delta)"),
    ],
)
def test_a_config_makes_its_transport(settings, name) -> None:
    assert SyncConfig(**settings).make_transport().name == name


@pytest.mark.parametrize("name", ["cuda_ipc", "nccl"])
def test_ways_through_gpu_memory_are_refused_for_weights_in_host_memory(name) -> None:
    transport = SyncConfig(transport=name).make_transport()
    with pytest.raises(SyncError, match=rf"{name}: .*weights (are )?on (a GPU|cpu)"):
        Publisher(one_rank(whole_tensors()), [InMemorySink()], transport=transport).publish(1)
