"""Real trainers and engines satisfy the Protocols of the packages that they do not import, and so do the fakes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_rollout import Engine
from rl_rollout.testing import FakeEngine
from rl_train import Trainer
from rl_train.testing import FakeTrainer
from rl_weights import ChecksumSink, DeviceSink, TensorSource, WeightSink, bucket_checksum
from rl_weights.hf import HFCheckpoint
from rl_weights.testing import InMemorySink, InMemorySource, check_weight_sink

PROGRAM = Path(__file__).parent / "megatron_source.py"


def source_of(model: Path) -> InMemorySource:
    checkpoint = HFCheckpoint(model)
    return InMemorySource({name: checkpoint.read(name) for name in checkpoint.specs})


def test_the_fakes_have_the_shape_of_their_protocols() -> None:
    assert isinstance(FakeEngine(), Engine)
    assert isinstance(FakeEngine(), WeightSink)
    assert isinstance(FakeTrainer(vocab_size=16), Trainer)
    assert isinstance(InMemorySink(), WeightSink)
    assert isinstance(InMemorySource({"a": torch.ones(1)}), TensorSource)


def test_the_fake_engine_takes_weights_as_a_sink_must() -> None:
    check_weight_sink(FakeEngine)


@pytest.mark.parametrize("num_bytes", [0, 1, 8, 4096 * 8 - 1, 4096 * 8, 3 * 4096 * 8 + 13])
def test_senders_and_receivers_find_the_same_checksum(num_bytes: int) -> None:
    from rl_rollout.sglang.weight_loader import checksum_of
    from rl_rollout.weights import checksum

    bucket = np.random.default_rng(num_bytes).integers(0, 256, num_bytes, dtype=np.uint8)
    assert bucket_checksum(torch.from_numpy(bucket)) == checksum(bucket) == checksum_of(torch.from_numpy(bucket))


@pytest.mark.slow
def test_a_real_engine_behind_ray_takes_weights_as_a_sink_must(stack) -> None:
    assert isinstance(stack.engine, Engine)
    assert isinstance(stack.engine, WeightSink)
    assert isinstance(stack.engine, DeviceSink)
    assert isinstance(stack.engine, ChecksumSink)
    check_weight_sink(lambda: stack.engine, source_of(stack.model))


@pytest.mark.slow
def test_a_real_trainer_has_the_shape_of_its_protocol(stack) -> None:
    assert isinstance(stack.trainer, Trainer)


@pytest.mark.slow
def test_a_megatron_trainer_gives_its_weights_as_a_source_must(toy_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(toy_model)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_published_weights_change_what_the_engine_answers(stack) -> None:
    from rl_rollout import GenerateRequest, SamplingParams

    request = GenerateRequest(
        request_id="a", tokens=np.arange(5, 15, dtype=np.int32), sampling=SamplingParams(max_new_tokens=8), seed=1
    )

    def answer() -> list[float]:
        return asyncio.run(stack.engine.generate([request], timeout_s=60))[0].logprobs.tolist()

    stack.trainer.publish(20, [stack.engine], verify=True)
    before = answer()
    assert answer() == pytest.approx(before, abs=1e-5)  # the second one reads its prompt from the cache
    changed = source_of(stack.model)
    rng = torch.Generator().manual_seed(1)
    noisy = InMemorySource({n: t + 0.3 * torch.randn(t.shape, generator=rng) for n, t in changed.iter_tensors()})
    from rl_weights import Publisher

    Publisher(noisy, [stack.engine]).publish(21)
    assert stack.engine.weight_version() == 21
    assert answer() != pytest.approx(before, abs=1e-2)
