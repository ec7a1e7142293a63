import asyncio

import numpy as np

from rl_rollout import Engine
from rl_rollout.testing import FakeEngine, check_engine


def test_the_fake_engine_keeps_the_promises_of_engines(prompt):
    engine = FakeEngine("engine 0", seconds_per_token=0.001)
    assert isinstance(engine, Engine)
    tensors = [("a", np.ones((2, 3), np.float32)), ("b", np.ones(4, np.float32))]
    asyncio.run(check_engine(lambda: engine, prompt, tensors))
    assert engine.calls == [
        "begin 7", "load 1", "begin 8", "load 1", "load 1", "commit 8",
        "release", "resume weights", "begin 9", "load 1", "load 1", "commit 9",
        "release", "resume weights", "begin 9", "load 1", "load 1", "commit 9", "resume kv_cache",
    ]  # fmt: skip
