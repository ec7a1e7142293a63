"""An engine on a GPU gives its memory up, takes it back and serves what it served before."""

import asyncio

import numpy as np
import pytest
import torch

from rl_rollout import GenerateRequest, SamplingParams
from rl_rollout.engine import EnginePart
from rl_rollout.errors import EngineNotServingError
from rl_weights import HFCheckpoint, Publisher
from rl_weights.testing import InMemorySource

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


def greedy(engine, num_requests: int = 8) -> list[list[int]]:
    rng = np.random.default_rng(0)
    requests = [
        GenerateRequest(
            request_id=str(number),
            tokens=rng.integers(3, 500, size=16, dtype=np.int32),
            sampling=SamplingParams(max_new_tokens=16, temperature=0.0),
            seed=number,
        )
        for number in range(num_requests)
    ]
    return [answer.tokens.tolist() for answer in asyncio.run(engine.generate(requests, timeout_s=300))]


def free_gib() -> float:
    return torch.cuda.mem_get_info()[0] / 2**30


def test_memory_is_given_up_and_taken_back_part_by_part(engine, model) -> None:
    checkpoint = HFCheckpoint(model)
    source = InMemorySource({name: tensor.cuda() for name, tensor in checkpoint.iter_tensors()})
    before = greedy(engine)
    serving_gib = free_gib()
    asyncio.run(engine.release_memory())
    released_gib = free_gib()
    total_gib = torch.cuda.mem_get_info()[1] / 2**30
    # The engine took 30 % of the device.
    assert released_gib - serving_gib > 0.2 * total_gib
    with pytest.raises(EngineNotServingError):
        greedy(engine)
    asyncio.run(engine.resume_memory(EnginePart.WEIGHTS))
    Publisher(source, [engine]).publish(1)
    assert free_gib() > serving_gib + 0.15 * total_gib, "the KV cache is still given up"
    asyncio.run(engine.resume_memory(EnginePart.KV_CACHE))
    assert greedy(engine) == before
    # A publish keeps two buckets; nothing else may have grown.
    assert free_gib() > serving_gib - 2.5
