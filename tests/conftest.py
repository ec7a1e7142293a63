"""What the tests of several packages together share: one tiny model, one trainer and one engine a session."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

if TYPE_CHECKING:
    from rl_train.megatron.rank import TrainerSpec

os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPERATURE = 0.7


class Stack(NamedTuple):
    """A trainer on two tensor-parallel ranks and an engine, both in Ray actors, on the same model."""

    model: Path
    trainer: object
    engine: object


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's tiny Qwen3 with random weights."""
    from recipes.toy import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("toy") / "model", seed=0)


def trainer_spec(model: Path, *flags: str) -> "TrainerSpec":
    """A trainer of two ranks on the model."""
    from recipes.arguments.foreign import read_model_config
    from rl_train.algorithms import AlgorithmConfig, make_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.cpu import importing_for_cpu
    from rl_train.megatron.rank import TrainerSpec

    model_config = read_model_config(model)
    own = ["--optimizer", "adam", "--lr", "1e-2"]
    with importing_for_cpu():  # this process only reads the flags
        arguments = parse_megatron_args([*flags, *own], model_config=model_config, world_size=2, train_iters=10)
    return TrainerSpec(
        arguments=arguments,
        model_config=model_config,
        weights=model,
        loss=make_loss(AlgorithmConfig(advantage_estimator="grpo")),
        temperature=TEMPERATURE,
    )


@pytest.fixture(scope="session")
def stack(toy_model: Path) -> Iterator[Stack]:
    """Started at the same time, as the recipes do."""
    from recipes.cluster import ray_cluster

    spec = trainer_spec(toy_model, "--tensor-model-parallel-size", "2", "--sequence-parallel")
    with ray_cluster(num_actors=3):
        import rl_rollout.testing
        import rl_train.testing
        from rl_rollout.ray import start_engine
        from rl_train.ray import TrainerGroup

        trainer = TrainerGroup.start(spec, world_size=2)
        engine = start_engine(toy_model, name="engine 0")
        try:
            trainer.wait_ready()
            engine.wait_ready()
            yield Stack(toy_model, trainer, engine)
            asyncio.run(rl_rollout.testing.check_closing(engine, np.arange(5, 15, dtype=np.int32)))
            rl_train.testing.check_closing(trainer, vocab_size=256)
        finally:
            engine.close()
            trainer.close()
