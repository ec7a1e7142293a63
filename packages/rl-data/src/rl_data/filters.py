"""Filters of whole groups: which are worth a training step, and why the others are not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rl_data.sample import FinishReason, SampleGroup


class GroupFilter(Protocol):
    """Decides on a group at once; what it drops is counted under the reason."""

    def reason_to_drop(self, group: SampleGroup) -> str | None:
        """Why the group is dropped, in a few words without numbers; None to keep it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpread:
    """Drops groups whose rewards are all equal: their advantages are 0 (dynamic sampling, DAPO, Yu et al. 2025)."""

    min_spread: float = 0.0
    """Groups whose greatest and least reward differ by no more than this are dropped."""

    def reason_to_drop(self, group: SampleGroup) -> str | None:
        """ "equal rewards", or "not scored" where a sample has no reward."""
        if any(sample.reward is None for sample in group.samples):
            return "not scored"
        rewards = group.rewards
        return "equal rewards" if float(rewards.max() - rewards.min()) <= self.min_spread else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFailures:
    """Drops groups in which more samples failed than may."""

    max_failed: int = 0

    def reason_to_drop(self, group: SampleGroup) -> str | None:
        """ "failed samples", where the engine, the environment or the grader failed."""
        num_failed = sum(sample.finish_reason is FinishReason.ERROR for sample in group.samples)
        return "failed samples" if num_failed > self.max_failed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterResult:
    """Groups in their order, and how many were dropped for which reason."""

    kept: tuple[SampleGroup, ...]
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])


def apply_filters(groups: Sequence[SampleGroup], filters: Sequence[GroupFilter]) -> FilterResult:
    """Keeps the groups that every filter keeps. A dropped group counts under the first filter's reason."""
    kept: list[SampleGroup] = []
    dropped: Counter[str] = Counter()
    for group in groups:
        reason = next((reason for each in filters if (reason := each.reason_to_drop(group)) is not None), None)
        if reason is None:
            kept.append(group)
        else:
            dropped[reason] += 1
    return FilterResult(kept=tuple(kept), dropped=dict(dropped))
