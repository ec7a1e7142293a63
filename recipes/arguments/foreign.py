"""Megatron's and SGLang's flags, read by their own parsers in processes of their own, at the same time.

Both libraries take seconds to import, and a recipe's driver needs neither.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from recipes.arguments.parse import ParsedArguments, located
from recipes.errors import UsageError
from rl_data.json import JsonValue
from rl_rollout.errors import RolloutConfigError
from rl_rollout.sglang.arguments import SGLangArguments, parse_sglang_args
from rl_train.errors import TrainConfigError
from rl_train.megatron.arguments import MegatronArguments, parse_megatron_args

_LOG_LINES_IN_ERRORS = 20


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


def parse_foreign(
    parsed: ParsedArguments,
    *,
    hf_checkpoint: Path,
    world_size: int,
    train_iters: int | None = None,
    timeout_s: float = 300.0,
) -> ForeignArguments:
    """Has Megatron and SGLang read their flags. SGLang is asked only if it has any.

    Args:
        parsed: what `parse_arguments` gave.
        hf_checkpoint: the model's folder, whose config.json fixes the model's shape.
        world_size: number of trainer ranks.
        train_iters: optimizer steps of the whole run, if known.
        timeout_s: seconds that a parser may take.

    Raises:
        UsageError: with everything that either parser refuses.
    """
    config = read_model_config(hf_checkpoint)
    megatron_job: dict[str, JsonValue] = {
        "parser": "megatron",
        "argv": [*parsed.megatron_argv],
        "model_config": dict(config),
        "world_size": world_size,
        "train_iters": train_iters,
        "where": f"config.json of {hf_checkpoint}",
    }
    sglang_job: dict[str, JsonValue] = {"parser": "sglang", "argv": [*parsed.sglang_argv]}
    jobs = [megatron_job, sglang_job] if parsed.sglang_argv else [megatron_job]
    # An interrupt of this thread ends the parsers, and so the threads that wait for them.
    with ThreadPoolExecutor(len(jobs)) as threads, ExitStack() as parsers:
        answers = [threads.submit(_ask, job, parsers.enter_context(_parser()), timeout_s) for job in jobs]
        results = [answer.result() for answer in answers]
    problems = [located(str(result["error"]), parsed.given) for result in results if "error" in result]
    if problems:
        raise UsageError("\n".join(problems))
    megatron = MegatronArguments(
        argv=parsed.megatron_argv,
        explicit=frozenset(cast("list[str]", results[0]["explicit"])),
        values=cast("dict[str, JsonValue]", results[0]["values"]),
    )
    explicit = cast("dict[str, JsonValue]", results[1]["explicit"]) if parsed.sglang_argv else {}
    return ForeignArguments(megatron=megatron, sglang=SGLangArguments(argv=parsed.sglang_argv, explicit=explicit))


@contextmanager
def _parser() -> Generator["subprocess.Popen[str]"]:
    """This module as a program, ended with the block."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "recipes.arguments.foreign"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parser:
        try:
            yield parser
        finally:
            parser.kill()


def _ask(job: Mapping[str, JsonValue], parser: "subprocess.Popen[str]", timeout_s: float) -> dict[str, JsonValue]:
    """Hands the parser its job and returns its answer."""
    try:
        answer, log = parser.communicate(json.dumps(job), timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the {job['parser']} parser gave no answer within {timeout_s} s") from error
    if parser.returncode != 0:
        tail = "\n".join(log.splitlines()[-_LOG_LINES_IN_ERRORS:])
        raise RuntimeError(f"the {job['parser']} parser failed (exit code {parser.returncode}):\n{tail}")
    return json.loads(answer)


def _answer(job: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    argv = cast("list[str]", job["argv"])
    try:
        if job["parser"] == "sglang":
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


def _main() -> None:
    # Whatever the libraries print must not get between the answer and the pipe it goes into.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(_answer(json.load(sys.stdin)), pipe)
    pipe.close()


if __name__ == "__main__":
    _main()
