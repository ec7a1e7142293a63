"""Accuracy on held-out prompts."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rl_data import Prompt, Sample
from rl_rollout.engine import SamplingParams
from rl_rollout.errors import RolloutConfigError
from rl_rollout.generate import GenerateContext, GenerateFunction, sample_seed, single_turn
from rl_rollout.metrics import sample_metrics
from rl_rollout.pool import EnginePool
from rl_rollout.score import Grader, grade_many, is_failed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How many samples an evaluation draws and how.

    Raises:
        RolloutConfigError: naming the field, if a value makes no sense.
    """

    n_samples_per_eval_prompt: int = field(default=1, metadata={"help": "samples of each prompt"})
    eval_max_response_len: int = field(default=1024, metadata={"help": "new tokens of a sample at most"})
    eval_temperature: float = field(default=0.0, metadata={"help": "sampling temperature; 0: the likeliest token"})
    eval_top_p: float = field(default=1.0, metadata={"help": "nucleus sampling; 1: off"})
    eval_top_k: int = field(default=-1, metadata={"help": "sampling from the k likeliest tokens; -1: off"})
    eval_timeout_s: float = field(default=600.0, metadata={"help": "seconds that an engine may take for a prompt"})
    eval_seed: int = field(default=1234, metadata={"help": "seed of the samples"})
    eval_pass_reward: float = field(default=1.0, metadata={"help": "reward from which a sample counts as right"})

    def __post_init__(self) -> None:
        checks = (
            ("n_samples_per_eval_prompt", self.n_samples_per_eval_prompt, self.n_samples_per_eval_prompt >= 1, ">= 1"),
            ("eval_max_response_len", self.eval_max_response_len, self.eval_max_response_len >= 1, ">= 1"),
            ("eval_temperature", self.eval_temperature, self.eval_temperature >= 0, ">= 0"),
            ("eval_top_p", self.eval_top_p, 0 < self.eval_top_p <= 1, "in (0, 1]"),
            ("eval_top_k", self.eval_top_k, self.eval_top_k == -1 or self.eval_top_k >= 1, "-1 or >= 1"),
            ("eval_timeout_s", self.eval_timeout_s, self.eval_timeout_s > 0, "above 0"),
        )
        for name, value, is_valid, expected in checks:
            if not is_valid:
                raise RolloutConfigError(f"{name}: expected {expected}, got {value}")

    @property
    def sampling(self) -> SamplingParams:
        """How the engines draw."""
        return SamplingParams(
            max_new_tokens=self.eval_max_response_len,
            temperature=self.eval_temperature,
            top_p=self.eval_top_p,
            top_k=self.eval_top_k,
        )


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
    samples: tuple[Sample, ...]
    """All samples, prompt by prompt."""


async def evaluate(
    prompts: Sequence[Prompt],
    pool: EnginePool,
    grader: Grader,
    config: EvalConfig,
    *,
    generate: GenerateFunction = single_turn,
) -> EvalReport:
    """Draws and grades samples of every prompt, all at once.

    Raises:
        RolloutConfigError: if there is no prompt.
        RequestError: if a prompt cannot be served.
        EngineError: if no engine is left.
    """
    if not prompts:
        raise RolloutConfigError("evaluation: expected at least one prompt, got none")
    context = GenerateContext(engines=pool, sampling=config.sampling, timeout_s=config.eval_timeout_s)

    async def scored(prompt: Prompt) -> list[Sample]:
        seeds = [sample_seed(config.eval_seed, prompt.group_id, i) for i in range(config.n_samples_per_eval_prompt)]
        return await grade_many(await generate(prompt, seeds, context), grader)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(scored(prompt)) for prompt in prompts]
    return _report([task.result() for task in tasks], config.eval_pass_reward)


def _report(samples_by_prompt: Sequence[Sequence[Sample]], pass_reward: float) -> EvalReport:
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
        samples=samples,
    )


def _is_right(sample: Sample, pass_reward: float) -> bool:
    return not is_failed(sample) and sample.reward is not None and sample.reward >= pass_reward


def pass_at_k(num_drawn: int, num_right: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is right: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al., Evaluating Large Language Models Trained on Code, 2021, equation 1.
    """
    return 1.0 - math.comb(num_drawn - num_right, k) / math.comb(num_drawn, k)
