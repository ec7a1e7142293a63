"""Generation through our engine layer over bare `sglang.Engine.generate`: same prompts, lengths and server arguments.

    python -m bench.generation_over_bare --model FOLDER [--num-prompts 32] [--response-tokens 2048] [--in-turn]

Our side is the one of the recipes: `single_turn` on an `EnginePool` with a `RayEngine`, an actor that owns a
`SGLangEngine`. The record is the median time of bare over the median time of ours: 1 means that the layer costs
nothing. Where both engines fit the machine they take turns, in the order A B B A ..., and the one that waits sleeps.
With --in-turn, which is the default where there is a GPU, one has the machine to itself and then the other.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import add_out_flag, measured, report
from rl_data import Prompt
from rl_rollout import EnginePool, GenerateContext, SamplingParams, single_turn

_TIMEOUT_S = 600.0
_WARM_UP_TOKENS = 16

type Round = Callable[[int], float]
"""Draws all responses of so many tokens, and gives the seconds that it took."""


def main() -> None:
    """Measures and prints."""
    flags = _flags()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prompts = _prompts(flags.num_prompts, flags.prompt_tokens)
    sides = {"ours": _ours, "bare": _bare}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    if flags.in_turn:
        for name, side in sides.items():
            with side(flags, prompts) as one_round:
                one_round(min(_WARM_UP_TOKENS, flags.response_tokens))
                taken[name] = [one_round(flags.response_tokens) for _ in range(flags.rounds)]
    else:
        with ExitStack() as stack:
            started = {name: stack.enter_context(side(flags, prompts)) for name, side in sides.items()}
            for number in range(-1, flags.rounds):
                for name in started if number % 2 == 0 else reversed(started):
                    seconds = started[name](flags.response_tokens)
                    taken[name] += [seconds] if number >= 0 else []
    _report(taken, flags)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.generation_over_bare", description="Generation through our layer over bare SGLang."
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--samples-per-prompt", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=24)
    parser.add_argument("--response-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=6, help="measured rounds of each, after one to warm up")
    parser.add_argument("--server-args", type=json.loads, default={}, help="SGLang's server arguments of both, as JSON")
    parser.add_argument("--in-turn", action=argparse.BooleanOptionalAction, help="one engine at a time")
    add_out_flag(parser)
    flags = parser.parse_args()
    if flags.in_turn is None:
        import torch

        flags.in_turn = torch.cuda.is_available()
    return flags


def _prompts(num_prompts: int, num_tokens: int) -> list[Prompt]:
    """Random tokens, of those that every tokenizer has."""
    tokens = np.random.default_rng(0).integers(3, 200, (num_prompts, num_tokens), dtype=np.int32)
    return [Prompt(row=row, epoch=0, tokens=tokens[row], text="") for row in range(num_prompts)]


@contextmanager
def _ours(flags: argparse.Namespace, prompts: Sequence[Prompt]) -> Generator[Round]:
    from recipes.cluster import gpus_per_actor, ray_cluster

    with ray_cluster(num_actors=1):
        from rl_rollout.ray import start_engine

        num_gpus = gpus_per_actor(num_actors=1)
        engine = start_engine(flags.model, name="engine 0", server_args=flags.server_args, num_gpus=num_gpus)
        try:
            engine.wait_ready()
            pool = EnginePool([engine])

            async def all_prompts(num_tokens: int) -> float:
                sampling = SamplingParams(max_new_tokens=num_tokens)
                context = GenerateContext(engines=pool, sampling=sampling, timeout_s=_TIMEOUT_S)
                seeds = range(flags.samples_per_prompt)
                started = time.perf_counter()
                await asyncio.gather(*(single_turn(prompt, seeds, context) for prompt in prompts))
                return time.perf_counter() - started

            yield lambda num_tokens: asyncio.run(all_prompts(num_tokens))
        finally:
            engine.close()


@contextmanager
def _bare(flags: argparse.Namespace, prompts: Sequence[Prompt]) -> Generator[Round]:
    """In a process of its own: SGLang ends every child process of the one that it runs in."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    tokens = [prompt.tokens.tolist() for prompt in prompts for _ in range(flags.samples_per_prompt)]
    seeds = [seed for _ in prompts for seed in range(flags.samples_per_prompt)]
    process = context.Process(target=_serve_bare, args=(theirs, str(flags.model), flags.server_args, tokens, seeds))
    process.start()
    theirs.close()

    def one_round(num_tokens: int) -> float:
        ours.send(num_tokens)
        return ours.recv()

    try:
        yield one_round
    finally:
        ours.send(0)
        process.join()


def _serve_bare(
    connection: Connection, model: str, server_args: dict[str, Any], tokens: list[list[int]], seeds: list[int]
) -> None:
    import sglang
    import torch

    from rl_rollout.sglang.cpu_platform import cpu_server_args

    server_args = {"log_level": "error", **server_args, "skip_tokenizer_init": True}
    chosen = server_args if torch.cuda.is_available() else cpu_server_args(server_args)
    engine = sglang.Engine(model_path=model, **chosen)
    while num_tokens := connection.recv():
        sampling = [{"max_new_tokens": num_tokens, "temperature": 1.0, "sampling_seed": seed} for seed in seeds]
        started = time.perf_counter()
        engine.generate(input_ids=tokens, sampling_params=sampling, return_logprob=True)
        connection.send(time.perf_counter() - started)
    engine.shutdown()


def _report(taken: dict[str, list[float]], flags: argparse.Namespace) -> None:
    medians = {name: statistics.median(times) for name, times in taken.items()}
    num_requests = flags.num_prompts * flags.samples_per_prompt
    details = {
        "ratio_of_fastest": round(min(taken["bare"]) / min(taken["ours"]), 4),
        "seconds_median": {name: round(median, 4) for name, median in medians.items()},
        "seconds": {name: [round(each, 4) for each in times] for name, times in taken.items()},
        "tokens_per_s": {name: round(num_requests * flags.response_tokens / each) for name, each in medians.items()},
        "num_requests": num_requests,
        "response_tokens": flags.response_tokens,
        "in_turn": flags.in_turn,
    }
    report([measured("generation_over_bare", medians["bare"] / medians["ours"], "ratio")], details, flags.out)


if __name__ == "__main__":
    sys.exit(main())
