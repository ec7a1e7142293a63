"""Megatron's and SGLang's flags, read by their own parsers in processes of their own, at the same time.

Both libraries take seconds to import, and a recipe's driver needs neither: it goes on while they load. Once loaded, a
parser answers for several command lines.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
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
    """The parsers of both libraries, each started when it is first wanted, ended with the block.

    Example:
        >>> with ForeignParsers() as parsers:
        ...     parsers.load(parsed)
        ...     rows = read_rows()  # meanwhile
        ...     foreign = parsers.read(parsed, hf_checkpoint=folder, world_size=2)
    """

    def __init__(self) -> None:
        self._parsers: dict[str, _Parser] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def load(self, parsed: ParsedArguments) -> None:
        """Starts the parsers that `read` will ask, and does not wait. SGLang is asked only if it has any flags."""
        for name in ("megatron", "sglang") if parsed.sglang_argv else ("megatron",):
            if name not in self._parsers:
                self._parsers[name] = _Parser(name)

    def read(
        self,
        parsed: ParsedArguments,
        *,
        hf_checkpoint: Path,
        world_size: int,
        train_iters: int | None = None,
        timeout_s: float = 300.0,
    ) -> ForeignArguments:
        """Has Megatron and SGLang read their flags.

        Args:
            parsed: what `parse_arguments` gave.
            hf_checkpoint: the model's folder, whose config.json fixes the model's shape.
            world_size: number of trainer ranks.
            train_iters: optimizer steps of the whole run, if known.
            timeout_s: seconds that a parser may take.

        Raises:
            UsageError: with everything that either parser refuses.
        """
        megatron_job: dict[str, JsonValue] = {
            "argv": [*parsed.megatron_argv],
            "model_config": dict(read_model_config(hf_checkpoint)),
            "world_size": world_size,
            "train_iters": train_iters,
            "where": f"config.json of {hf_checkpoint}",
        }
        jobs: dict[str, Mapping[str, JsonValue]] = {"megatron": megatron_job}
        if parsed.sglang_argv:
            jobs["sglang"] = {"argv": [*parsed.sglang_argv]}
        self.load(parsed)
        results = self._ask(jobs, timeout_s)
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

    def _ask(self, jobs: Mapping[str, Mapping[str, JsonValue]], timeout_s: float) -> dict[str, dict[str, JsonValue]]:
        """The answers, by parser."""
        with ThreadPoolExecutor(len(jobs)) as threads, ExitStack() as unless_answered:
            # Without its parser no thread waits any longer: an interrupt would otherwise wait for them.
            unless_answered.callback(self._end)
            answers = {name: threads.submit(self._parsers[name].ask, job) for name, job in jobs.items()}
            try:
                results = {name: answer.result(timeout_s) for name, answer in answers.items()}
            except TimeoutError as error:
                raise TimeoutError(f"the parsers of {', '.join(jobs)} gave no answer in {timeout_s} s") from error
            unless_answered.pop_all()
            return results

    def _end(self) -> None:
        while self._parsers:
            self._parsers.popitem()[1].end()


class _Parser:
    """This module as a program: one parser, which loads its library and then answers job after job."""

    def __init__(self, name: str) -> None:
        self._name = name
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
            "PYTHONWARNINGS": "ignore",
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "recipes.arguments.foreign", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ask(self, job: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Hands it a job and returns its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self._process.wait()
            self._log.seek(0)
            tail = "\n".join(self._log.read().splitlines()[-_LOG_LINES_IN_ERRORS:])
            raise RuntimeError(f"the {self._name} parser failed (exit code {code}):\n{tail}")
        return json.loads(answer)

    def end(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            with suppress(BrokenPipeError):  # what it was sent, and did not read any more
                if pipe is not None:
                    pipe.close()


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


def _load(name: str) -> None:
    """Imports the library, which takes the time. This process has no GPU, so what only a GPU needs stays out."""
    if name == "megatron":
        from rl_train.megatron.cpu import importing_for_cpu

        with importing_for_cpu():
            importlib.import_module("megatron.training.arguments")
        return
    from rl_rollout.sglang.light_imports import collecting_later, light_imports_on_cpu, quick_distributions

    with collecting_later(), quick_distributions(), light_imports_on_cpu():
        importlib.import_module("sglang.srt.server_args")


def _main(name: str) -> None:
    # Whatever the libraries print must not get between the answer and the pipe it goes into.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _load(name)
    for line in sys.stdin:
        pipe.write(json.dumps(_answer(name, json.loads(line))) + "\n")
        pipe.flush()


if __name__ == "__main__":
    _main(sys.argv[1])
