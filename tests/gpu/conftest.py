"""One small model, one engine and one trainer on one GPU."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

# Temperature of engine and trainer, so that a temperature that one of them forgot shows.
TEMPERATURE = 0.7


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of two layers with random bf16 weights, spread enough for its tokens to differ in probability.

    What bf16 rounds off a log-probability grows with that spread: at 0.1 it is 0.02, twice the bar of a trained model.
    """
    from bench.model_configs import MODEL_CONFIGS
    from bench.random_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("gpu") / "model"
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "head_dim": 128}
    make_checkpoint(folder, {**MODEL_CONFIGS["tiny"], **sizes}, std=0.03, device="cuda")
    return folder


@pytest.fixture(scope="session")
def engine(model: Path) -> "Iterator[object]":
    """An engine that can give its memory up. Triton's attention needs no kernels beside SGLang's wheel."""
    from rl_rollout import SGLangEngine

    arguments = {
        "attention_backend": "triton",
        "enable_memory_saver": True,
        "mem_fraction_static": 0.3,
        "cuda_graph_max_bs_decode": 16,
        "random_seed": 0,
    }
    with SGLangEngine(model, name="engine 0", server_args=arguments) as engine:
        engine.wait_ready()
        yield engine


@pytest.fixture(scope="session")
def trainer(model: Path) -> "Iterator[object]":
    """A trainer of one rank, in this process."""
    import torch.distributed as dist

    from rl_train.algorithms import AlgorithmConfig, make_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.trainer import MegatronTrainer

    config = json.loads((model / "config.json").read_text())
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    flags = ["--bf16", "--optimizer", "adam", "--lr", "1e-3", "--accumulate-allreduce-grads-in-fp32"]
    trainer = MegatronTrainer(
        arguments=parse_megatron_args(flags, model_config=config, world_size=1, train_iters=10),
        model_config=config,
        weights=model,
        loss=make_loss(AlgorithmConfig(advantage_estimator="grpo")),
        temperature=TEMPERATURE,
    )
    yield trainer
    trainer.close()
