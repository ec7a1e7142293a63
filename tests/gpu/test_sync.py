"""Weights get from one process's GPU memory into an engine on the same GPU without a copy through the host."""

import psutil
import pytest
import torch

from rl_rollout import EngineError, SGLangEngine
from rl_weights import HFCheckpoint, Publisher, SyncError, bucket_checksum
from rl_weights.sync.transports.direct import DirectTransport
from rl_weights.sync.transports.disk import DiskTransport
from rl_weights.sync.transports.group import GroupTransport
from rl_weights.testing import InMemorySource, check_weight_sink

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

MIB = 2**20


def source_of(model, scale: float = 1.0) -> InMemorySource:
    return InMemorySource({name: tensor.cuda() * scale for name, tensor in HFCheckpoint(model).iter_tensors()})


@pytest.mark.parametrize("num_bytes", [0, 5, 32768, 10 * 32768 + 3, 64 * MIB + 8])
def test_the_checksum_of_a_bucket_is_the_same_on_a_gpu(num_bytes) -> None:
    bucket = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert bucket_checksum(bucket.cuda()) == bucket_checksum(bucket)


def test_an_engine_on_the_same_gpu_takes_weights_as_a_sink_must(engine, model) -> None:
    check_weight_sink(lambda: engine, source_of(model))


@pytest.mark.parametrize("bucket_bytes", [MIB, 8 * MIB, 1024 * MIB])
def test_every_tensor_arrives_by_way_of_gpu_memory(engine, model, bucket_bytes) -> None:
    publisher = Publisher(source_of(model, scale=0.5), [engine], bucket_bytes=bucket_bytes)
    for version in (201, 202):
        report = publisher.publish(version, verify=True)
        assert report.buffers_on == "cuda:0"
    other = Publisher(source_of(model, scale=0.25), [_Deaf(engine)], bucket_bytes=bucket_bytes)
    with pytest.raises(SyncError, match=r"tensors are not the source's"):
        other.publish(203, verify=True)


class _Deaf:
    """Says what the engine holds, and loads nothing."""

    def __init__(self, engine) -> None:
        self.name, self.check_buffer, self.let_go = engine.name, engine.check_buffer, engine.let_go
        self.tensor_checksums, self.weight_version = engine.tensor_checksums, engine.weight_version

    def begin_update(self, version) -> None: ...
    def load_bucket(self, specs, buffer, checksum) -> None: ...
    def commit_update(self, version, num_tensors) -> None: ...


@pytest.mark.parametrize("name", ["host", "gloo", "disk (full)", "disk (delta)"])
def test_ways_through_host_memory_bring_the_same_weights(engine, model, tmp_path, name) -> None:
    made = {
        "host": lambda: DirectTransport(allow_gpu=False),
        "gloo": lambda: GroupTransport("gloo"),
        "disk (full)": lambda: DiskTransport(tmp_path),
        "disk (delta)": lambda: DiskTransport(tmp_path, "delta"),
    }
    source = source_of(model, scale=0.5)
    publisher = Publisher(source, [engine], bucket_bytes=8 * MIB, transport=made[name]())
    for version in (401, 402):
        report = publisher.publish(version, verify=True)
        assert (report.transport, report.buffers_on) == (name, "cpu")
        source.tensors["model.norm.weight"] *= 1.5
    if name == "disk (delta)":
        assert report.num_moved_bytes < 0.01 * report.num_bytes


def test_kept_buffers_are_shared_once_for_all_publishes(engine, model) -> None:
    publisher = Publisher(source_of(model), [engine], bucket_bytes=8 * MIB, keep_buffers=True)
    publisher.publish(501, verify=True)
    shared = dict(engine._sharer._shared)
    assert shared
    publisher.publish(502, verify=True)
    assert engine._sharer._shared == shared
    engine.let_go()
    publisher.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU; NCCL joins two")
def test_an_engine_on_another_gpu_takes_weights_over_nccl_and_reads_their_memory(model) -> None:
    arguments = {"attention_backend": "triton", "mem_fraction_static": 0.3, "disable_cuda_graph": True}
    with SGLangEngine(model, name="engine 1", server_args={**arguments, "base_gpu_id": 1}) as engine:
        for transport in (GroupTransport("nccl"), DirectTransport(), DirectTransport(allow_host=False)):
            publisher = Publisher(source_of(model), [engine], bucket_bytes=8 * MIB, transport=transport)
            for version in (1, 2):
                report = publisher.publish(version, verify=True)
                assert (report.transport, report.buffers_on) == (transport.name, "cuda:0")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU; the engine has two")
def test_an_engine_on_two_gpus_reads_the_memory_of_one(model) -> None:
    arguments = {"attention_backend": "triton", "mem_fraction_static": 0.3, "disable_cuda_graph": True, "tp_size": 2}
    with SGLangEngine(model, name="engine 2", server_args=arguments) as engine:
        assert engine.num_ranks() == 2
        source = source_of(model, scale=0.5)
        for transport in (DirectTransport(allow_gpu=False), DirectTransport(), GroupTransport("gloo")):
            publisher = Publisher(source, [engine], bucket_bytes=8 * MIB, transport=transport)
            for version in (1, 2):
                report = publisher.publish(version, verify=True)
            assert report.buffers_on == ("cuda:0" if transport.name == "auto" else "cpu")
        assert listened_on(engine.process_ids()) <= {"127.0.0.1"}


def listened_on(process_ids) -> set[str]:
    """Addresses on which the processes wait for connections."""
    sockets = (one for pid in process_ids for one in psutil.Process(pid).net_connections(kind="inet"))
    return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}


def test_a_damaged_bucket_on_the_gpu_is_named_and_the_engine_lives(engine, model) -> None:
    name, tensor = "model.norm.weight", HFCheckpoint(model).read("model.norm.weight").cuda()
    buffer = tensor.view(torch.uint8).view(-1).clone()
    engine.begin_update(301)
    with pytest.raises(EngineError, match=r"bucket 0 of version 301 \(from model\.norm\.weight\): expected checksum"):
        engine.load_bucket([(name, "bfloat16", tuple(tensor.shape))], buffer, "0" * 16)
    Publisher(source_of(model), [engine]).publish(302, verify=True)


def test_fifty_publishes_and_five_publishers_leave_no_growth_of_gpu_memory(engine, model) -> None:
    source = source_of(model)

    def used_mib() -> float:
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return (total - free) / MIB

    def publish(number_of_publisher: int) -> None:
        publisher = Publisher(source, [engine], bucket_bytes=4 * MIB)
        for number in range(10):
            publisher.publish(1000 * number_of_publisher + number)

    publish(1)
    before = used_mib()
    for number_of_publisher in range(2, 7):
        publish(number_of_publisher)
    # CUDA's own bookkeeping may take a page or two of 2 MiB; the buffers of a single publisher would be 8 MiB.
    assert used_mib() - before < 8


def test_buckets_take_gpu_memory_only_while_a_publish_lasts(engine, model) -> None:
    source = source_of(model)

    def free_mib() -> float:
        return torch.cuda.mem_get_info()[0] / MIB

    before = free_mib()
    during = []

    class Watching:
        def __init__(self) -> None:
            for method in ("begin_update", "commit_update", "weight_version", "check_buffer", "let_go"):
                setattr(self, method, getattr(engine, method))

        def load_bucket(self, specs, buffer, checksum) -> None:
            during.append(free_mib())
            engine.load_bucket(specs, buffer, checksum)

    for version in (901, 902):
        Publisher(source, [Watching()], bucket_bytes=8 * MIB).publish(version)
    assert min(during) <= before - 8
    assert free_mib() >= before - 2
