"""Engines that were started elsewhere: handles of them, and whether they answer."""

import hashlib
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipes.config import EnginePlacementConfig, RunConfig, WeightSyncConfig
from recipes.errors import UsageError
from rl_rollout import EngineConfig, EngineError, RequestError, RolloutConfigError
from rl_rollout.sglang.http_engine import HTTPEngine

API_KEY = "SGLANG_API_KEY"
"""Variable of the environment with the key of servers that were started with `--api-key`."""


@contextmanager
def external_engines(
    placement: EnginePlacementConfig, run: RunConfig, sync: WeightSyncConfig, engine: EngineConfig
) -> Generator[list[HTTPEngine]]:
    """Handles of the run's servers, if it has any."""
    if not placement.rollout_external_engine_addrs:
        yield []
        return
    shared = sync.sync_config(run.run_dir).folder
    assert shared is not None, "external engines take weights by a folder"
    with folder_of_run(shared, run.run_dir) as folder:
        yield _handles(placement.rollout_external_engine_addrs, run.hf_checkpoint, folder, engine)


@contextmanager
def folder_of_run(shared: Path, run_dir: Path) -> Generator[Path]:
    """The run's own place in a folder that others may use too: without what it left there when it was killed.

    It goes at the end. Its name follows from the run's folder, so that a run that is resumed, perhaps with fewer
    servers or on another machine, finds it again.
    """
    owner = str(run_dir.absolute())
    folder = shared / f"{run_dir.absolute().name}-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_servers(placement: EnginePlacementConfig, hf_checkpoint: Path) -> dict[str, int]:
    """Asks each server how it was started, so that one that is of no use is known before anything is started.

    Returns:
        What limits prompt and response together on a server -> how many tokens it leaves them.

    Raises:
        UsageError: naming a server that does not answer as SGLang does, or was started in a way that is of no use.
    """
    rooms: dict[str, int] = {}
    try:
        for engine in _handles(placement.rollout_external_engine_addrs, hf_checkpoint, Path(), EngineConfig()):
            engine.wait_ready(0)
            context_length = engine.check_server()
            if context_length is not None:
                rooms[f"{engine.name}: --context-length"] = context_length
    except (EngineError, RequestError, RolloutConfigError) as error:
        raise UsageError(f"--rollout-external-engine-addrs: {error}") from error
    return rooms


def _handles(addresses: Sequence[str], model: Path, folder: Path, config: EngineConfig) -> list[HTTPEngine]:
    key = os.environ.get(API_KEY)
    return [
        HTTPEngine(address, name=f"engine {index}", model_path=model, weights_folder=folder, config=config, api_key=key)
        for index, address in enumerate(addresses)
    ]
