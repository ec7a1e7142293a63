"""Accuracy on held-out prompts."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_data import Prompt, Sample
from rl_rollout.engine import SamplingParams
from rl_rollout.errors import EngineDeadlineError, RolloutConfigError
from rl_rollout.generate import GenerateContext, GenerateFunction, all_of, sample_seed, single_turn, unanswered
from rl_rollout.metrics import sample_metrics
from rl_rollout.pool import EnginePool
from rl_rollout.score import Grader, grade_many, is_failed, num_grader_failures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """What an evaluation found. K = samples of a prompt."""

    accuracy: float
    """Share of right samples, averaged over the prompts; a failed sample counts as not right."""
    pass_at_k: Mapping[int, float]
    """For k = 1, 2, 4 ... K: chance that one of k samples is right, averaged over the prompts."""
    reward_mean: float
    """Over graded samples."""
    response_length_mean: float
    """Tokens."""
    truncated_share: float
    """Share of graded samples that reached the token limit."""
    num_failed_samples: int
    num_generate_timeouts: int
    """Failed samples that an engine did not draw in time."""
    num_grader_timeouts: int
    """Failed samples whose grader was too slow."""
    num_grader_crashes: int
    """Failed samples whose grader failed."""
    samples: tuple[Sample, ...]
    """All samples, prompt by prompt."""


async def evaluate(
    prompts: Sequence[Prompt],
    pool: EnginePool,
    grader: Grader,
    sampling: SamplingParams,
    *,
    num_samples: int = 1,
    seed: int = 0,
    timeout_s: float = 600.0,
    pass_reward: float = 1.0,
    generate: GenerateFunction = single_turn,
) -> EvalReport:
    """Draws and grades samples of every prompt, all at once.

    Args:
        prompts: held-out ones.
        pool: the engines.
        grader: scores responses.
        sampling: how the engines draw; a temperature of 0 takes the likeliest tokens.
        num_samples: samples of each prompt.
        seed: the same seed draws the same samples from the same weights, if the engines honour seeds: `SGLangEngine`
            does on a CPU, and on a GPU with the server argument `enable_deterministic_inference`.
        timeout_s: what an engine may take for a prompt. All prompts are sent at once, so the time in which an engine
            works at the others counts. Samples that are not drawn in time are failed ones.
        pass_reward: reward from which a sample counts as right.
        generate: draws a prompt's samples; a single turn by default.

    Raises:
        RolloutConfigError: if there is no prompt or no sample to draw.
        RequestError: if a prompt cannot be served.
        EngineError: if no engine is left.
    """
    if not prompts or num_samples < 1:
        raise RolloutConfigError(
            f"evaluation: expected prompts and samples, got {len(prompts)} prompts and {num_samples} samples of each"
        )
    context = GenerateContext(engines=pool, sampling=sampling, timeout_s=timeout_s)

    too_late: list[str] = []

    async def scored(prompt: Prompt) -> list[Sample]:
        seeds = [sample_seed(seed, prompt.group_id, index) for index in range(num_samples)]
        try:
            samples = await generate(prompt, seeds, context)
        except EngineDeadlineError as error:
            too_late.append(prompt.group_id)
            return [unanswered(prompt, index, str(error)) for index in range(num_samples)]
        return await grade_many(samples, grader)

    samples_by_prompt = await all_of(scored(prompt) for prompt in prompts)
    if too_late:
        what = f"{len(too_late)} of {len(prompts)} prompts were not answered within {timeout_s:g} s"
        logger.warning("evaluation: %s (generate_timeout_s); their samples count as not right", what)
    return _report(samples_by_prompt, pass_reward, num_generate_timeouts=num_samples * len(too_late))


def _report(
    samples_by_prompt: Sequence[Sequence[Sample]], pass_reward: float, *, num_generate_timeouts: int
) -> EvalReport:
    num_right = [sum(_is_right(sample, pass_reward) for sample in samples) for samples in samples_by_prompt]
    num_drawn = len(samples_by_prompt[0])
    samples = tuple(sample for group in samples_by_prompt for sample in group)
    graded = [sample for sample in samples if not is_failed(sample)]
    metrics = sample_metrics(graded)
    if not metrics:
        reasons = sorted({str(sample.metadata.get("error")) for sample in samples})
        logger.warning("evaluation: all %d samples failed: %s", len(samples), "; ".join(reasons[:3]))
    powers = [2**power for power in range(num_drawn.bit_length()) if 2**power < num_drawn]
    return EvalReport(
        accuracy=sum(num_right) / len(samples),
        pass_at_k={
            k: sum(pass_at_k(num_drawn, right, k) for right in num_right) / len(num_right) for k in [*powers, num_drawn]
        },
        reward_mean=metrics.get("reward_mean", math.nan),
        response_length_mean=metrics.get("response_length_mean", math.nan),
        truncated_share=metrics.get("truncated_share", math.nan),
        num_failed_samples=len(samples) - len(graded),
        num_generate_timeouts=num_generate_timeouts,
        **num_grader_failures(samples),
        samples=samples,
    )


def _is_right(sample: Sample, pass_reward: float) -> bool:
    return not is_failed(sample) and sample.reward is not None and sample.reward >= pass_reward


def pass_at_k(num_drawn: int, num_right: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al., Evaluating Large Language Models Trained on Code, 2021, equation 1.
    """
    return 1.0 - math.comb(num_drawn - num_right, k) / math.comb(num_drawn, k)
