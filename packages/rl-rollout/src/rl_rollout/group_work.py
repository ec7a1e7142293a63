"""The way of one group through generation, grading and the filter."""

import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import NamedTuple

from rl_data import Prompt, Sample, SampleGroup
from rl_data.buffer import is_unfinished
from rl_data.filters import RewardSpread
from rl_rollout.errors import EngineDeadlineError, RequestError
from rl_rollout.generate import GenerateContext, GenerateFunction, continue_samples, sample_seed
from rl_rollout.metrics import BusyTime
from rl_rollout.rollout_config import RolloutConfig
from rl_rollout.score import Grader, grade_many, is_failed

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
"""Reason of a group with samples that were cut off by the caller."""
TOO_LATE = "generate_timeout"
"""Reason of a group that the engine did not draw within generate_timeout_s."""


class Outcome(NamedTuple):
    """What became of one group."""

    order: int
    """Position in which its prompt was taken."""
    group: SampleGroup
    """Without failed samples, unless it is dropped."""
    failed: tuple[Sample, ...]
    """Samples that the engine, the environment or the grader failed, the reason in metadata["error"]."""
    reason: str | None
    """Why it cannot be given; None if it can."""


class GroupWork:
    """Makes groups of prompts. One object serves a whole rollout; its clocks add up all groups' time.

    Args:
        config: how samples are drawn and filtered.
        context: the engines and how they are asked.
        generate: draws a prompt's samples.
        grader: scores them.
    """

    def __init__(
        self, config: RolloutConfig, context: GenerateContext, generate: GenerateFunction, grader: Grader
    ) -> None:
        self._config = config
        self._context = context
        self._generate = generate
        self._grader = grader
        self._filter = RewardSpread() if config.dynamic_sampling_filter == "reward_spread" else None
        self.generating = BusyTime()
        self.grading = BusyTime()

    async def start(self, order: int, prompt: Prompt) -> Outcome:
        """Draws the prompt's samples and goes on as `finish`."""
        seeds = [self._seed(prompt.group_id, index) for index in range(self._config.n_samples_per_prompt)]
        return await self._draw(order, prompt.group_id, self._generate(prompt, seeds, self._context))

    async def resume(self, order: int, group: SampleGroup) -> Outcome:
        """Draws the rest of samples that were cut off, each with its own seed, and goes on as `finish`."""
        seeds = [self._seed(group.group_id, sample.index) for sample in group.samples]
        return await self._draw(order, group.group_id, continue_samples(group.samples, seeds, self._context))

    async def _draw(self, order: int, group_id: str, samples: Awaitable[list[Sample]]) -> Outcome:
        try:
            with self.generating.running():
                drawn = await samples
        except RequestError as error:
            logger.warning("group %s is dropped: %s", group_id, error)
            return Outcome(order, SampleGroup(group_id=group_id, samples=()), (), "request_refused")
        except EngineDeadlineError as error:
            logger.warning("group %s is dropped: %s; generate_timeout_s is the limit", group_id, error)
            return Outcome(order, SampleGroup(group_id=group_id, samples=()), (), TOO_LATE)
        return await self.finish(order, SampleGroup(group_id=group_id, samples=tuple(drawn)))

    async def finish(self, order: int, group: SampleGroup) -> Outcome:
        """Grades what has no grade yet, takes failed samples out and filters the group."""
        if is_unfinished(group):
            return Outcome(order, group, (), UNFINISHED)
        with self.grading.running():
            samples = await grade_many(group.samples, self._grader)
        whole = [sample for sample in samples if not is_failed(sample)]
        failed = tuple(sample for sample in samples if is_failed(sample))
        if not whole:
            return Outcome(order, replace(group, samples=tuple(samples)), failed, "all_samples_failed")
        group = replace(group, samples=tuple(whole))
        return Outcome(order, group, failed, self._filter.reason_to_drop(group) if self._filter else None)

    def _seed(self, group_id: str, index: int) -> int:
        return sample_seed(self._config.rollout_seed, group_id, index)
