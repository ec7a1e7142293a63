"""Megatron's and SGLang's flags, read by their own parsers in processes of their own, at the same time.

Both libraries take seconds to import, and a recipe's driver needs neither: it goes on while they load.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from recipes.arguments.parse import ParsedArguments, located
from recipes.errors import UsageError
from rl_data.json import JsonValue
from rl_rollout.errors import RolloutConfigError
from rl_rollout.sglang.arguments import SGLangArguments, parse_sglang_args
from rl_train.errors import TrainConfigError
from rl_train.megatron.arguments import MegatronArguments, parse_megatron_args

_LOG_LINES_IN_ERRORS = 20

# What takes the time, by parser.
_LIBRARIES = {"megatron": "megatron.training.arguments", "sglang": "sglang.srt.server_args"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignArguments:
    """The two kinds of flags that are not ours."""

    megatron: MegatronArguments
    sglang: SGLangArguments


def read_model_config(hf_checkpoint: Path) -> Mapping[str, JsonValue]:
    """The config.json of a Hugging Face model folder.

    Raises:
        UsageError: if there is none, or it is no JSON object.
    """
    path = hf_checkpoint / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--hf-checkpoint {hf_checkpoint}: no config.json there ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path}: expected a JSON object")
    return cast("Mapping[str, JsonValue]", config)


class ForeignParsers:
    """The parsers of both libraries, which load from now on and end with the block.

    Example:
        >>> with ForeignParsers(parsed) as parsers:
        ...     rows = read_rows()  # meanwhile
        ...     foreign = parsers.read(hf_checkpoint=folder, world_size=2)

    Args:
        parsed: what `parse_arguments` gave. SGLang is asked only if it has any flags.
    """

    def __init__(self, parsed: ParsedArguments) -> None:
        self._parsed = parsed
        names = ["megatron", "sglang"] if parsed.sglang_argv else ["megatron"]
        self._parsers = {name: _start(name) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for parser in self._parsers.values():
            parser.kill()
        for parser in self._parsers.values():
            with parser:  # closes its pipes and waits for its end
                pass

    def read(
        self, *, hf_checkpoint: Path, world_size: int, train_iters: int | None = None, timeout_s: float = 300.0
    ) -> ForeignArguments:
        """Has Megatron and SGLang read their flags. May be called once.

        Args:
            hf_checkpoint: the model's folder, whose config.json fixes the model's shape.
            world_size: number of trainer ranks.
            train_iters: optimizer steps of the whole run, if known.
            timeout_s: seconds that a parser may take.

        Raises:
            UsageError: with everything that either parser refuses.
        """
        parsed = self._parsed
        megatron_job: dict[str, JsonValue] = {
            "argv": [*parsed.megatron_argv],
            "model_config": dict(read_model_config(hf_checkpoint)),
            "world_size": world_size,
            "train_iters": train_iters,
            "where": f"config.json of {hf_checkpoint}",
        }
        results = self._ask_all({"megatron": megatron_job, "sglang": {"argv": [*parsed.sglang_argv]}}, timeout_s)
        problems = [located(str(result["error"]), parsed.given) for result in results.values() if "error" in result]
        if problems:
            raise UsageError("\n".join(problems))
        megatron = MegatronArguments(
            argv=parsed.megatron_argv,
            explicit=frozenset(cast("list[str]", results["megatron"]["explicit"])),
            values=cast("dict[str, JsonValue]", results["megatron"]["values"]),
        )
        explicit = cast("dict[str, JsonValue]", results["sglang"]["explicit"]) if "sglang" in results else {}
        return ForeignArguments(megatron=megatron, sglang=SGLangArguments(argv=parsed.sglang_argv, explicit=explicit))

    def _ask_all(
        self, jobs: Mapping[str, Mapping[str, JsonValue]], timeout_s: float
    ) -> dict[str, dict[str, JsonValue]]:
        """The answers, by parser."""
        with ThreadPoolExecutor(len(self._parsers)) as threads:
            try:
                answers = {
                    name: threads.submit(_ask, name, jobs[name], parser, timeout_s)
                    for name, parser in self._parsers.items()
                }
                return {name: answer.result() for name, answer in answers.items()}
            finally:
                # An interrupt of this thread ends the parsers, and so the threads that wait for them.
                for parser in self._parsers.values():
                    parser.kill()


def _start(name: str) -> "subprocess.Popen[str]":
    """This module as a program: one parser, which loads its library and then waits for its job."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "recipes.arguments.foreign", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _ask(
    name: str, job: Mapping[str, JsonValue], parser: "subprocess.Popen[str]", timeout_s: float
) -> dict[str, JsonValue]:
    """Hands the parser its job and returns its answer."""
    try:
        answer, log = parser.communicate(json.dumps(job), timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the {name} parser gave no answer within {timeout_s} s") from error
    if parser.returncode != 0:
        tail = "\n".join(log.splitlines()[-_LOG_LINES_IN_ERRORS:])
        raise RuntimeError(f"the {name} parser failed (exit code {parser.returncode}):\n{tail}")
    return json.loads(answer)


def _answer(name: str, job: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    argv = cast("list[str]", job["argv"])
    try:
        if name == "sglang":
            return {"explicit": dict(parse_sglang_args(argv).explicit)}
        megatron = parse_megatron_args(
            argv,
            model_config=cast("Mapping[str, JsonValue]", job["model_config"]),
            world_size=cast("int", job["world_size"]),
            train_iters=cast("int | None", job["train_iters"]),
            where=cast("str", job["where"]),
        )
    except (TrainConfigError, RolloutConfigError) as error:
        return {"error": str(error)}
    return megatron.as_json()


def _main(name: str) -> None:
    # Whatever the libraries print must not get between the answer and the pipe it goes into.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    importlib.import_module(_LIBRARIES[name])
    json.dump(_answer(name, json.load(sys.stdin)), pipe)
    pipe.close()


if __name__ == "__main__":
    _main(sys.argv[1])
