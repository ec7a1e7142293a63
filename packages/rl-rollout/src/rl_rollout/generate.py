"""From a prompt to samples: the interface of generate functions, and the one that answers in a single turn.

P = prompt tokens, R = response tokens.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from rl_data import FinishReason, Prompt, Sample, VersionSpan
from rl_rollout.engine import GenerateRequest, Generation, SamplingParams


class RequestTaker(Protocol):
    """What answers requests: an `EnginePool` or a single engine."""

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """See `Engine.generate`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateContext:
    """What a generate function works with."""

    engines: RequestTaker
    sampling: SamplingParams
    timeout_s: float
    """Deadline of each call to the engines."""


class GenerateFunction(Protocol):
    """Draws the samples of one prompt. `per_sample` makes one of a function that draws a single sample."""

    async def __call__(self, prompt: Prompt, seeds: Sequence[int], context: GenerateContext) -> list[Sample]:
        """One sample a seed, in that order, with `index` counting from 0 and `group_id` the prompt's.

        Raises:
            RequestError: if the prompt cannot be served; its group is dropped and counted.
        """
        ...


class SampleFunction(Protocol):
    """Draws one sample."""

    async def __call__(self, prompt: Prompt, index: int, seed: int, context: GenerateContext) -> Sample:
        """The sample with this index and the prompt's group_id."""
        ...


def per_sample(function: SampleFunction) -> GenerateFunction:
    """The generate function that calls `function` for all samples of a prompt at once.

    If one fails, the others are cancelled and have ended before the error is raised.
    """

    async def generate(prompt: Prompt, seeds: Sequence[int], context: GenerateContext) -> list[Sample]:
        return await all_of(function(prompt, index, seed, context) for index, seed in enumerate(seeds))

    return generate


async def all_of[T](calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of calls that run side by side, in their order; if one fails, none runs on after its error."""
    tasks: list[asyncio.Task[T]] = []
    try:
        for call in calls:
            tasks.append(asyncio.ensure_future(call))
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def single_turn(prompt: Prompt, seeds: Sequence[int], context: GenerateContext) -> list[Sample]:
    """Samples that each are one answer to the prompt. All requests go to one engine, which shares the prefix."""
    requests = [
        GenerateRequest(
            request_id=f"{prompt.group_id}/{index}", tokens=prompt.tokens, sampling=context.sampling, seed=seed
        )
        for index, seed in enumerate(seeds)
    ]
    answers = await context.engines.generate(requests, timeout_s=context.timeout_s)
    return [_to_sample(prompt, index, answer) for index, answer in enumerate(answers)]


def _to_sample(prompt: Prompt, index: int, answer: Generation) -> Sample:
    prompt_length = prompt.tokens.size
    tokens = np.concatenate([prompt.tokens, answer.tokens])
    span = VersionSpan(prompt_length, tokens.size, answer.policy_version)
    return Sample(
        group_id=prompt.group_id,
        index=index,
        tokens=tokens,
        prompt_length=prompt_length,
        loss_mask=np.arange(tokens.size) >= prompt_length,
        rollout_logprobs=np.concatenate([np.zeros(prompt_length, np.float32), answer.logprobs]),
        spans=(span,) if answer.tokens.size else (),
        finish_reason=answer.finish_reason,
        response_text=answer.text,
        label=prompt.label,
        metadata=prompt.metadata,
    )


def unanswered(prompt: Prompt, index: int, reason: str) -> Sample:
    """The failed sample of a prompt to which no engine answered, the reason in metadata["error"]."""
    return Sample(
        group_id=prompt.group_id,
        index=index,
        tokens=prompt.tokens,
        prompt_length=prompt.tokens.size,
        loss_mask=np.zeros(prompt.tokens.size, np.bool_),
        rollout_logprobs=np.zeros(prompt.tokens.size, np.float32),
        spans=(),
        finish_reason=FinishReason.ERROR,
        response_text="",
        label=prompt.label,
        metadata=prompt.metadata,
    ).with_error(reason)


def sample_seed(run_seed: int, group_id: str, index: int) -> int:
    """Seed of one sample in [0, 2**63): depends on the three alone, so a resumed run draws what it would have drawn."""
    digest = hashlib.blake2b(f"{run_seed}/{group_id}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def turn_seed(seed: int, turn: int) -> int:
    """Seed of one turn of a sample in [0, 2**63); turn 0 has the sample's own."""
    if turn == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/turn {turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


async def continue_samples(samples: Sequence[Sample], seeds: Sequence[int], context: GenerateContext) -> list[Sample]:
    """The samples, those that were cut off (ABORT) drawn to their end by the present weights; spans tell who drew what.

    Only for samples of a single turn. `SamplingParams.max_new_tokens` and `min_new_tokens` bound the whole response;
    one that leaves nothing to draw ends as it is (LENGTH).
    """
    sampling = context.sampling
    whole = list(samples)
    requests: dict[int, GenerateRequest] = {}
    for number, sample in enumerate(samples):
        if sample.finish_reason is not FinishReason.ABORT:
            continue
        if sample.response_length >= sampling.max_new_tokens:
            whole[number] = replace(sample, finish_reason=FinishReason.LENGTH)
            continue
        requests[number] = GenerateRequest(
            request_id=f"{sample.group_id}/{sample.index}",
            tokens=sample.tokens,
            sampling=replace(
                sampling,
                max_new_tokens=sampling.max_new_tokens - sample.response_length,
                min_new_tokens=max(0, sampling.min_new_tokens - sample.response_length),
            ),
            seed=seeds[number],
            response_start=sample.prompt_length,
        )
    if requests:
        answers = await context.engines.generate(list(requests.values()), timeout_s=context.timeout_s)
        for number, answer in zip(requests, answers, strict=True):
            whole[number] = _extend(samples[number], answer)
    return whole


def _extend(sample: Sample, answer: Generation) -> Sample:
    start, stop = len(sample.tokens), len(sample.tokens) + answer.tokens.size
    span = (VersionSpan(start, stop, answer.policy_version),) if stop > start else ()
    return replace(
        sample,
        tokens=np.concatenate([sample.tokens, answer.tokens]),
        loss_mask=np.concatenate([sample.loss_mask, np.ones(answer.tokens.size, np.bool_)]),
        rollout_logprobs=np.concatenate([sample.rollout_logprobs, answer.logprobs]),
        spans=sample.spans + span,
        finish_reason=answer.finish_reason,
        response_text=answer.text,
    )
