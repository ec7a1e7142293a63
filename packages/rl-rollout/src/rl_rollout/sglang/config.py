"""Settings of an engine, and what they mean for its process."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rl_data.json import JsonValue
from rl_rollout.errors import RolloutConfigError

_OURS = frozenset({"model_path", "skip_tokenizer_init", "custom_sigquit_handler", "custom_weight_loader"})


class ServerArguments(Protocol):
    """What gives SGLang's server arguments, for example `rl_rollout.sglang.arguments.SGLangArguments`."""

    def server_kwargs(self) -> Mapping[str, JsonValue]:
        """The fields of SGLang's ServerArgs that were set."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Deadlines and resources of one engine."""

    engine_start_timeout_s: float = field(
        default=600.0, metadata={"help": "seconds that an engine may take to load its model and become ready"}
    )
    engine_update_timeout_s: float = field(
        default=300.0, metadata={"help": "seconds that an engine may take for one step of a weight update"}
    )
    engine_num_threads: int = field(default=1, metadata={"help": "CPU threads of each of an engine's processes"})

    def __post_init__(self) -> None:
        for name in ("engine_start_timeout_s", "engine_update_timeout_s", "engine_num_threads"):
            value: float = getattr(self, name)
            if value <= 0:
                raise RolloutConfigError(f"{name} {value}: expected a number above 0")


def require_model(model_path: Path, name: str) -> None:
    """Does nothing if the folder can hold a model; a path that is no folder may be the name of one on a hub.

    Raises:
        RolloutConfigError: naming the engine, if the folder has no config.json.
    """
    if model_path.is_dir() and not (model_path / "config.json").is_file():
        raise RolloutConfigError(f"{name}: expected a model folder, {model_path} has no config.json")


def chosen_arguments(server_args: Mapping[str, JsonValue] | ServerArguments | None) -> dict[str, JsonValue]:
    """The server arguments as a dict of their own.

    Raises:
        RolloutConfigError: if one of them is the engine's to set.
    """
    if server_args is None:
        return {}
    chosen = dict(server_args if isinstance(server_args, Mapping) else server_args.server_kwargs())
    taken = sorted(_OURS & chosen.keys())
    if taken:
        raise RolloutConfigError(f"SGLang's {', '.join(taken)} is set by the engine itself, not by server arguments")
    return chosen


def host_environment(
    chosen: Mapping[str, JsonValue], num_threads: int, *, has_remote_writer: bool = False
) -> dict[str, str]:
    """Variables that an engine's process gets beside those of its caller.

    Args:
        chosen: server arguments.
        num_threads: of each of its processes.
        has_remote_writer: whether weights may come over NCCL from another machine.
    """
    environment = {
        "OMP_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",  # SGLang's imports warn at length, and the log's end goes into error messages
    }
    if "nnodes" not in chosen:
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: nothing listens on another interface
        # NCCL chooses an interface once in a process, for the engine's own groups and for that of its weights.
        if not has_remote_writer and "NCCL_SOCKET_IFNAME" not in os.environ:
            environment["NCCL_SOCKET_IFNAME"] = "lo"
    if chosen.get("enable_memory_saver"):
        # SGLang preloads a library into its schedulers that needs CUDA's runtime before torch has found it.
        known = os.environ.get("LD_LIBRARY_PATH")
        folders = [*map(str, _cuda_runtimes()), *([known] if known else [])]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    if chosen.get("device") == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # our CPU platform is inactive where CUDA is
    return environment


def _cuda_runtimes() -> list[Path]:
    """Folders of the CUDA runtimes that are installed as Python packages."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else spec.submodule_search_locations or []
    return sorted({file.parent for place in places for file in Path(place).glob("*/lib/libcudart.so.*")})
