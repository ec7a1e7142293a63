"""Filters of whole groups: which are worth a training step, and why the others are not."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

from rl_data.errors import DataError
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
        """ "equal rewards", "no samples", or "not scored" where a sample has no reward that is a finite number."""
        if not group.samples:
            return "no samples"
        if any(sample.reward is None or not isfinite(sample.reward) for sample in group.samples):
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
class ResponseLengths:
    """Drops groups in which a response is shorter or longer than wanted.

    Raises:
        DataError: if the bounds exclude everything.
    """

    min_tokens: int = 0
    max_tokens: int | None = None
    """None: any length."""

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or (self.max_tokens is not None and self.max_tokens < self.min_tokens):
            raise DataError(f"response lengths: expected 0 <= min_tokens <= max_tokens, got {self}")

    def reason_to_drop(self, group: SampleGroup) -> str | None:
        """ "short responses" or "long responses", whichever is met first."""
        for sample in group.samples:
            if sample.response_length < self.min_tokens:
                return "short responses"
            if self.max_tokens is not None and sample.response_length > self.max_tokens:
                return "long responses"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropIf:
    """Drops groups of which a function of the caller's says so.

    Example:
        >>> DropIf(reason="one answer", test=lambda group: len({s.response_text for s in group.samples}) == 1)
    """

    reason: str
    """What the dropped groups are counted under."""
    test: Callable[[SampleGroup], bool]

    def reason_to_drop(self, group: SampleGroup) -> str | None:
        """The reason, where the function gives True."""
        return self.reason if self.test(group) else None


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
