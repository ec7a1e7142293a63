"""Engines that were started elsewhere: handles of them, and whether they answer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.config import EnginePlacementConfig
from recipes.errors import UsageError
from rl_rollout import EngineConfig, EngineError, RequestError
from rl_rollout.sglang.http_engine import HTTPEngine

if TYPE_CHECKING:
    from recipes.grpo.config import GRPOJob

API_KEY = "SGLANG_API_KEY"
"""Variable of the environment with the key of servers that were started with `--api-key`."""


def external_engines(job: "GRPOJob") -> list[HTTPEngine]:
    """Handles of the run's servers."""
    folder = job.weight_sync.sync_config(job.run.run_dir).folder or Path()
    return _handles(job.engine_placement.rollout_external_engine_addrs, job.run.hf_checkpoint, folder, job.engine)


def check_servers(placement: EnginePlacementConfig, hf_checkpoint: Path) -> None:
    """Asks each server for its model, so that one that is not there is known before anything is started.

    Raises:
        UsageError: naming a server that does not answer, or not as SGLang does.
    """
    for engine in _handles(placement.rollout_external_engine_addrs, hf_checkpoint, Path(), EngineConfig()):
        try:
            engine.wait_ready(0)
        except (EngineError, RequestError) as error:
            raise UsageError(f"--rollout-external-engine-addrs: {error}") from error


def _handles(addresses: Sequence[str], model: Path, folder: Path, config: EngineConfig) -> list[HTTPEngine]:
    key = os.environ.get(API_KEY)
    return [
        HTTPEngine(address, name=f"engine {index}", model_path=model, weights_folder=folder, config=config, api_key=key)
        for index, address in enumerate(addresses)
    ]
