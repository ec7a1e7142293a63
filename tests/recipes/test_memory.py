"""Whose turn the memory of a shared GPU is, in which order, and what is said of it."""

import asyncio

import numpy as np
import pytest

from recipes.clock import PhaseClock
from recipes.config import EnginePlacementConfig
from recipes.grpo.memory import MemorySwitch
from recipes.memory_use import MemoryLog, peak
from rl_rollout import EnginePool
from rl_rollout.testing import FakeEngine
from rl_rollout.weights import checksum
from rl_train import MemoryUse
from rl_train.testing import FakeTrainer

GIB = 2**30


class Trainer(FakeTrainer):
    """Notes its calls in the list that the engine notes its own in."""

    def __init__(self, calls):
        super().__init__(vocab_size=4)
        self._calls = calls

    def release_memory(self, *parts):
        super().release_memory(*parts)
        self._calls.append(f"trainer releases {' and '.join(parts)}")

    def resume_memory(self):
        super().resume_memory()
        self._calls.append("trainer resumes")

    def memory_use(self):
        return [MemoryUse(resident_bytes=GIB, parked_bytes=0)]


def switch(**placement):
    engine = FakeEngine()
    trainer = Trainer(engine.calls)

    def publish(after_step):
        buffer = np.zeros(4, np.uint8)
        engine.begin_update(after_step + 1)
        engine.load_bucket([("w", "float32", (1,))], buffer, checksum(buffer))
        engine.commit_update(after_step + 1, 1)

    return MemorySwitch(EnginePlacementConfig(**placement), trainer, EnginePool([engine]), publish), engine.calls


PUBLISH_2 = ["begin 2", "load 1", "commit 2"]
LAST = "trainer releases parameters"


@pytest.mark.parametrize(
    ("placement", "to_training", "to_generation", "phases"),
    [
        ({}, [], PUBLISH_2, {"publish"}),
        (
            {"colocate": True},
            ["release", "trainer resumes"],
            ["trainer releases gradients and optimizer", "resume weights", *PUBLISH_2, "resume kv_cache"],
            {"release", "resume", "publish"},
        ),
        (
            {"colocate": True, "offload_train_parameters": True},
            ["release", "trainer resumes"],
            ["trainer releases gradients and optimizer", "resume weights", *PUBLISH_2, LAST, "resume kv_cache"],
            {"release", "resume", "publish"},
        ),
        (
            {"colocate": True, "offload_train": False},
            ["release", "trainer resumes"],
            ["trainer releases gradients", "resume weights", *PUBLISH_2, "resume kv_cache"],
            {"release", "resume", "publish"},
        ),
        (
            {"colocate": True, "offload_rollout": False, "offload_train": False},
            ["trainer resumes"],
            ["trainer releases gradients", *PUBLISH_2],
            {"release", "resume", "publish"},
        ),
    ],
)
def test_weights_come_back_before_they_are_published_and_the_cache_after(placement, to_training, to_generation, phases):
    memory, calls = switch(**placement)
    clock = PhaseClock()
    asyncio.run(memory.to_training(clock))
    assert calls == to_training
    calls.clear()
    asyncio.run(memory.to_generation(clock, after_step=1))
    assert calls == to_generation
    assert clock.seconds().keys() - {"step"} == phases


@pytest.mark.parametrize(
    ("placement", "before", "after"),
    [
        ({}, [], []),
        ({"colocate": True, "offload_train": False}, [], []),
        (
            {"colocate": True},
            ["release", "trainer resumes"],
            ["trainer releases gradients and optimizer", "resume weights", *PUBLISH_2, "resume kv_cache"],
        ),
    ],
)
def test_a_checkpoint_finds_the_whole_trainer_and_the_engines_go_on_after_it(placement, before, after):
    memory, calls = switch(**placement)

    async def save():
        async with memory.whole_trainer(after_step=1):
            calls.append("save")

    asyncio.run(save())
    assert calls == [*before, "save", *after]


def test_memory_is_that_of_the_rank_or_gpu_that_has_most():
    class Ranks:
        def memory_use(self):
            return [
                MemoryUse(
                    resident_bytes=GIB,
                    parked_bytes=parked * GIB,
                    device_bytes=device * GIB,
                    allocated_peak_bytes=allocated * GIB,
                    reserved_peak_bytes=10 * GIB,
                )
                for parked, device, allocated in ((0, 70, 9), (0, 60, 8))
            ]

    log = MemoryLog(Ranks())
    log.note("train")
    taken = log.take()
    assert taken == {"train_device": 70.0, "train_allocated_peak": 9.0, "train_reserved_peak": 10.0}
    assert peak(taken) == ("GPU GiB", 70.0)
    assert log.take() == {}


def test_without_a_gpu_memory_is_that_of_the_ranks_processes():
    log = MemoryLog(Trainer([]))
    log.note("train")
    assert peak(log.take()) == ("rank GiB", 1.0)
