"""Generation through the pool over bare `sglang.Engine.generate`, same prompts and limits; prints JSON.

    python bench/generation_over_bare.py --model FOLDER [--num-prompts 32] [--rounds 5]

Both engines run on this machine; they take turns, in the order A B B A ..., and the one that waits sleeps. The ratio is
the median time of bare over the median time of the pool: 1 means that the pool costs nothing. On a machine that does
other work besides, the ratio of the fastest rounds says more.
"""

import argparse
import asyncio
import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rl_data import Prompt
from rl_rollout import EnginePool, GenerateContext, SamplingParams, SGLangEngine, single_turn

BARE_ARGUMENTS: dict[str, Any] = {"skip_tokenizer_init": True, "log_level": "error"}
CPU_ARGUMENTS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "disable_cuda_graph": True, "sleep_on_idle": True}


def main() -> None:
    """Measures and prints."""
    arguments = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    random = np.random.default_rng(0)
    prompts = [
        Prompt(row=row, epoch=0, tokens=random.integers(3, 200, arguments.prompt_tokens, dtype=np.int32), text="")
        for row in range(arguments.num_prompts)
    ]
    engine = SGLangEngine(arguments.model, name="engine 0")
    try:
        seconds = {"pool": _pool_rounds(engine, prompts, arguments), "bare": _bare_rounds(prompts, arguments)}
        engine.wait_ready()
        taken = _alternate(seconds, arguments.rounds)
    finally:
        engine.close()
    print(json.dumps(_summary(taken, arguments), indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generation through the pool over bare sglang.Engine.generate.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--samples-per-prompt", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=24)
    parser.add_argument("--response-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=6, help="measured rounds of each, after one to warm up")
    return parser.parse_args()


def _alternate(sides: dict[str, Callable[[], float]], num_rounds: int) -> dict[str, list[float]]:
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(num_rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            taken[name].append(sides[name]())
    return taken


def _pool_rounds(engine: SGLangEngine, prompts: list[Prompt], arguments: argparse.Namespace) -> Callable[[], float]:
    sampling = SamplingParams(max_new_tokens=arguments.response_tokens)
    context = GenerateContext(engines=EnginePool([engine]), sampling=sampling, timeout_s=600)
    seeds = range(arguments.samples_per_prompt)

    async def one_round() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(single_turn(prompt, seeds, context) for prompt in prompts))
        return time.perf_counter() - started

    return lambda: asyncio.run(one_round())


def _bare_rounds(prompts: list[Prompt], arguments: argparse.Namespace) -> Callable[[], float]:
    import sglang
    import torch

    logging.disable(logging.WARNING)
    cpu = {} if torch.cuda.is_available() else CPU_ARGUMENTS
    bare = sglang.Engine(model_path=str(arguments.model), **BARE_ARGUMENTS, **cpu)
    tokens = [prompt.tokens.tolist() for prompt in prompts for _ in range(arguments.samples_per_prompt)]
    sampling = [
        {"max_new_tokens": arguments.response_tokens, "temperature": 1.0, "sampling_seed": seed}
        for _ in prompts
        for seed in range(arguments.samples_per_prompt)
    ]

    def one_round() -> float:
        started = time.perf_counter()
        bare.generate(input_ids=tokens, sampling_params=sampling, return_logprob=True)
        return time.perf_counter() - started

    return one_round


def _summary(taken: dict[str, list[float]], arguments: argparse.Namespace) -> dict[str, object]:
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "bench": "generation_over_bare",
        "bare_over_pool": round(medians["bare"] / medians["pool"], 4),
        "bare_over_pool_of_fastest": round(min(taken["bare"]) / min(taken["pool"]), 4),
        "seconds_median": {name: round(median, 4) for name, median in medians.items()},
        "seconds": {name: [round(each, 4) for each in times] for name, times in taken.items()},
        "num_requests": arguments.num_prompts * arguments.samples_per_prompt,
        "response_tokens": arguments.response_tokens,
        "model": str(arguments.model),
    }


if __name__ == "__main__":
    main()
