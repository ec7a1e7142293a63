"""Groups that an engine draws for prompts of several lengths, for comparing it with a trainer."""

import asyncio

import numpy as np

from rl_data import Prompt, SampleGroup
from rl_rollout import EnginePool, GenerateContext, SamplingParams, single_turn


def draw_groups(engine, *, num_prompts: int, max_new_tokens: int, temperature: float) -> list[SampleGroup]:
    """Four samples for each prompt, each with a seed of its own."""
    context = GenerateContext(
        engines=EnginePool([engine]),
        sampling=SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature),
        timeout_s=300.0,
    )
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(row=row, epoch=0, tokens=rng.integers(3, 500, size=5 + 7 * row, dtype=np.int32), text="")
        for row in range(num_prompts)
    ]

    async def draw(prompt: Prompt) -> SampleGroup:
        seeds = range(100 * prompt.row, 100 * prompt.row + 4)
        return SampleGroup(group_id=prompt.group_id, samples=tuple(await single_turn(prompt, seeds, context)))

    async def draw_all() -> list[SampleGroup]:
        return [await draw(prompt) for prompt in prompts]

    return asyncio.run(draw_all())
