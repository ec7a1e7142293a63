"""An engine in a Ray actor: the same promises, and what happens when the actor dies."""

import asyncio
import time

import numpy as np
import psutil
import pytest

from rl_rollout import Engine, EngineConfig, EngineError, RolloutConfigError
from rl_rollout.testing import (
    FakeEngine,
    check_closing,
    check_generation,
    check_memory,
    check_weight_updates,
    make_requests,
)
from rl_rollout.weights import checksum

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(cluster, tiny_model):
    from rl_rollout.ray import start_engine

    started = time.monotonic()
    engine = start_engine(tiny_model, name="engine 0", num_cpus=1)
    assert time.monotonic() - started < 5, "start_engine waited for the engine"
    yield engine
    engine.close()


def publish(sink, folder, version):
    """Gives the engine a whole set of weights, so that it serves them."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(f"{folder}/model.safetensors")
    sink.begin_update(version)
    for name, tensor in tensors.items():
        buffer = tensor.contiguous().view(-1).view(torch.uint8)
        specs = [(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))]
        sink.load_bucket(specs, buffer, checksum(buffer.numpy()))
    sink.commit_update(version, len(tensors))


def test_bad_input_is_refused_before_an_actor_starts(tmp_path):
    from rl_rollout.ray import start_engine

    with pytest.raises(RolloutConfigError, match=r"engine 9: expected a model folder, .* has no config\.json"):
        start_engine(tmp_path, name="engine 9")


def test_it_keeps_the_promises_of_engines(engine, tiny_model, prompt):
    from safetensors.numpy import load_file

    assert isinstance(engine, Engine)
    assert engine.wait_ready()["launch"] > 0
    asyncio.run(check_generation(engine, prompt))
    tensors = list(load_file(tiny_model / "model.safetensors").items())
    asyncio.run(check_weight_updates(engine, prompt, tensors))
    asyncio.run(check_memory(engine, prompt, tensors))


def test_beyond_the_calls_that_ray_begins_by_default_it_answers_and_what_is_cancelled_ends(cluster, prompt):
    class Actor:
        def __init__(self):
            self._engine = FakeEngine("engine 1", seconds_per_token=60)

        async def generate(self, requests, timeout_s):
            return await self._engine.generate(requests, timeout_s=timeout_s)

        async def weight_version(self):
            return self._engine.weight_version()

        async def num_in_flight(self):
            return len(self._engine._in_flight)

    from rl_rollout.ray import MAX_CALLS, RayEngine

    actor = ray.remote(Actor).options(num_cpus=0, max_concurrency=MAX_CALLS).remote()
    engine = RayEngine(actor, "engine 1", EngineConfig())

    def wait_for(num_in_flight):
        deadline = time.monotonic() + 30
        while (num := ray.get(actor.num_in_flight.remote(), timeout=20)) != num_in_flight:
            assert time.monotonic() < deadline, f"{num} calls are in flight, expected {num_in_flight}"
            time.sleep(0.1)

    async def ask_and_cancel():
        calls = [asyncio.ensure_future(engine.generate(make_requests(prompt, [1]), timeout_s=600)) for _ in range(1001)]
        await asyncio.to_thread(wait_for, 1001)
        assert await asyncio.to_thread(engine.weight_version) == 0
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.to_thread(wait_for, 0)

    asyncio.run(ask_and_cancel())
    ray.kill(actor)


def test_another_actor_publishes_through_the_handle(engine, tiny_model):
    @ray.remote(num_cpus=0.5)
    class Trainer:
        def publish(self, sink, folder):
            publish(sink, folder, 12)
            return sink.weight_version()

    trainer = Trainer.remote()
    assert ray.get(trainer.publish.remote(engine, str(tiny_model)), timeout=60) == 12
    ray.kill(trainer)


def test_errors_of_the_engine_come_as_they_are(engine, tiny_model):
    from safetensors.numpy import load_file

    weight = load_file(tiny_model / "model.safetensors")["model.norm.weight"]
    engine.begin_update(13)
    with pytest.raises(EngineError, match=r"engine 0: bucket 0 of version 13.*expected checksum bad, got") as caught:
        engine.load_bucket([("model.norm.weight", "float32", weight.shape)], weight.view(np.uint8), "bad")
    assert type(caught.value) is EngineError


def test_a_killed_actor_is_an_error_with_the_engines_name_and_leaves_no_process(engine, tiny_model, prompt):
    # An update that another test left half done would refuse the requests before the actor dies.
    publish(engine, tiny_model, 14)
    processes = [psutil.Process(pid) for pid in engine.process_ids()]
    assert len(processes) == 2  # host and scheduler

    async def kill_in_mid_generation():
        requests = make_requests(prompt, range(8), max_new_tokens=400)
        call = asyncio.ensure_future(engine.generate(requests, timeout_s=60))
        await asyncio.sleep(0)  # the call is sent, and its answer takes far longer than the kill
        ray.kill(engine._actor)
        return await call

    with pytest.raises(EngineError, match="engine 0: its actor died while generating 8 responses"):
        asyncio.run(kill_in_mid_generation())
    with pytest.raises(EngineError, match="engine 0: its actor died"):
        engine.weight_version()
    psutil.wait_procs(processes, timeout=10)
    assert not any(process.is_running() for process in processes)
    asyncio.run(check_closing(engine, prompt))
