"""One rollout: prompts in, scored groups of samples out."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rl_data import PolicyVersion, Prompt, Sample, SampleGroup
from rl_data.buffer import SampleBuffer
from rl_rollout.errors import RolloutStarvedError
from rl_rollout.generate import GenerateContext, GenerateFunction, single_turn
from rl_rollout.group_work import UNFINISHED, GroupWork, Outcome
from rl_rollout.metrics import sample_metrics
from rl_rollout.pool import EnginePool
from rl_rollout.rollout_config import RolloutConfig
from rl_rollout.score import Grader, num_grader_failures

logger = logging.getLogger(__name__)

# A sample of several turns goes on with its next one if it was at its tool when the engines cut off what they had.
_ABORT_AGAIN_S = 0.2

SURPLUS = "surplus"
"""Reason of a group that was left over when the batch was full."""


class Prompts(Protocol):
    """Where prompts come from, for example `rl_data.PromptSource`."""

    def next_batch(self, num_items: int, /) -> list[Prompt]:
        """The next prompts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedGroup:
    """A group that the rollout does not give."""

    group: SampleGroup
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """What a rollout gives."""

    groups: tuple[SampleGroup, ...]
    """rollout_batch_size groups of scored samples, in the order in which their prompts were taken."""
    dropped: tuple[DroppedGroup, ...]
    """Groups that were filtered out, refused, failed or left over."""
    failed: tuple[Sample, ...]
    """Samples that were taken out of their groups, the reason in metadata["error"]."""
    metrics: Mapping[str, float]
    """See `Rollout.collect`."""

    @property
    def samples(self) -> list[Sample]:
        """Every sample of the groups."""
        return [sample for group in self.groups for sample in group.samples]

    @property
    def drop_counts(self) -> Mapping[str, int]:
        """How many groups were dropped, by reason."""
        return dict(Counter(dropped.reason for dropped in self.dropped))


class Rollout:
    """Draws, grades and filters groups until a batch is full.

    Args:
        config: how much and how.
        pool: the engines.
        grader: scores responses.
        generate: draws a prompt's samples; a single turn by default.
        buffer: keeps what is left over for the next rollout. Without it, leftovers are dropped as "surplus".

    Example:
        >>> result = await Rollout(RolloutConfig(rollout_batch_size=32), pool, grader).collect(source)
    """

    def __init__(
        self,
        config: RolloutConfig,
        pool: EnginePool,
        grader: Grader,
        *,
        generate: GenerateFunction = single_turn,
        buffer: SampleBuffer | None = None,
    ) -> None:
        self._config = config
        self._pool = pool
        self._grader = grader
        self._generate = generate
        self._buffer = buffer
        self._context = GenerateContext(engines=pool, sampling=config.sampling, timeout_s=config.generate_timeout_s)

    async def collect(self, source: Prompts) -> RolloutResult:
        """Takes over_sampling_batch_size prompts, and one more for each that is missing, until the batch is full.

        A prompt is missing when those in work could no longer fill the batch. The buffer's groups come first. What is
        in flight once the batch is full is cut off, also the next turn of a sample that is at its tool then; finished
        groups and, where `generate` is `single_turn`, unfinished ones go to the buffer.

        Metrics: those of `sample_metrics` over the samples given; reward_mean_unfiltered over all that were graded;
        num_failed_samples, of them num_grader_timeouts and num_grader_crashes, and num_dropped_groups; generate_s and
        grade_s, the seconds in which at least one group was generating or being graded, and collect_s, all seconds.

        Raises:
            EngineError: if no engine is left.
            RolloutStarvedError: if the batch is not full after all prompts that max_refills allows. It says why groups
                were dropped, and what the last failed sample failed with.
        """
        work = GroupWork(self._config, self._context, self._generate, self._grader)
        collection = _Collection(
            self._config,
            work,
            source,
            self._buffer,
            policy_version=self._pool.policy_version,
            keeps_unfinished=self._generate is single_turn,
        )
        all_tasks, running = set[asyncio.Task[Outcome]](), set[asyncio.Task[Outcome]]()
        try:
            while collection.num_missing > 0:
                new = {asyncio.create_task(group) for group in collection.next_groups(len(running))}
                all_tasks |= new
                running |= new
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                collection.settle(task.result() for task in done)
            left_over = running
            while running:
                await self._pool.abort_all()
                done, running = await asyncio.wait(running, timeout=_ABORT_AGAIN_S, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()  # an error is not to wait for the slowest group
            collection.settle(task.result() for task in left_over)
        finally:
            for task in all_tasks:
                task.cancel()
            await asyncio.gather(*all_tasks, return_exceptions=True)  # of errors that came together, one was raised
        return collection.result()


class _Collection:
    """What one `collect` has gathered so far."""

    def __init__(
        self,
        config: RolloutConfig,
        work: GroupWork,
        source: Prompts,
        buffer: SampleBuffer | None,
        *,
        policy_version: PolicyVersion,
        keeps_unfinished: bool,
    ) -> None:
        self._num_wanted = config.rollout_batch_size
        self._num_at_once = config.over_sampling_batch_size or config.rollout_batch_size
        self._work = work
        self._source = source
        self._buffer = buffer
        self._policy_version = policy_version
        self._keeps_unfinished = keeps_unfinished
        self._max_taken = self._num_at_once * (1 + config.max_refills)
        self._num_taken = 0
        self._kept: list[Outcome] = []
        self._dropped: list[DroppedGroup] = []
        self._rewards: list[float] = []
        self._failed: list[Sample] = []
        self._started = time.perf_counter()

    @property
    def num_missing(self) -> int:
        """Groups that are still wanted."""
        return self._num_wanted - len(self._kept)

    def next_groups(self, num_running: int) -> Sequence[Coroutine[Any, Any, Outcome]]:
        """The next groups to work on, from the buffer, then from the source; none while `num_running` may be enough."""
        num_groups = self.num_missing - num_running if self._num_taken else self._num_at_once
        if num_groups <= 0:
            return []
        if self._num_taken + num_groups > self._max_taken:
            reasons = Counter(dropped.reason for dropped in self._dropped)
            last = f"; the last failed sample: {self._failed[-1].metadata.get('error')}" if self._failed else ""
            raise RolloutStarvedError(
                f"rollout: {len(self._kept)} of {self._num_wanted} groups after {self._num_taken} prompts; dropped: "
                + ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
                + last
            )
        old: list[SampleGroup] = []
        if self._buffer is not None:
            old = self._buffer.take(num_groups, policy_version=self._policy_version)
        prompts = self._source.next_batch(num_groups - len(old)) if len(old) < num_groups else []
        groups = [self._work.resume(self._num_taken + number, group) for number, group in enumerate(old)]
        first = self._num_taken + len(old)
        groups += [self._work.start(first + number, prompt) for number, prompt in enumerate(prompts)]
        self._num_taken += len(groups)
        return groups

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Keeps, buffers or drops groups that ended at the same time, in the order of their prompts."""
        for outcome in sorted(outcomes, key=lambda outcome: outcome.order):
            self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        self._failed += outcome.failed
        if outcome.reason == UNFINISHED:
            self._leave_over(outcome.group, is_usable=self._keeps_unfinished)
            return
        self._rewards += [sample.reward for sample in outcome.group.samples if sample.reward is not None]
        if outcome.reason is not None:
            self._drop(outcome.group, outcome.reason)
        elif self.num_missing > 0:
            self._kept.append(outcome)
        else:
            self._leave_over(outcome.group, is_usable=True)

    def _leave_over(self, group: SampleGroup, *, is_usable: bool) -> None:
        if self._buffer is not None and is_usable:
            self._buffer.put([group])
        else:
            self._drop(group, SURPLUS)

    def _drop(self, group: SampleGroup, reason: str) -> None:
        self._dropped.append(DroppedGroup(group=group, reason=reason))

    def result(self) -> RolloutResult:
        """What `collect` returns."""
        groups = tuple(outcome.group for outcome in sorted(self._kept, key=lambda outcome: outcome.order))
        metrics = sample_metrics([sample for group in groups for sample in group.samples])
        metrics["reward_mean_unfiltered"] = float(np.mean(self._rewards))
        metrics |= {
            "num_failed_samples": float(len(self._failed)),
            **{name: float(count) for name, count in num_grader_failures(self._failed).items()},
            "num_dropped_groups": float(len(self._dropped)),
            "generate_s": self._work.generating.seconds,
            "grade_s": self._work.grading.seconds,
            "collect_s": time.perf_counter() - self._started,
        }
        return RolloutResult(groups=groups, dropped=tuple(self._dropped), failed=tuple(self._failed), metrics=metrics)
