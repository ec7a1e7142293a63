"""Rewards of samples. A grader that fails marks its sample as failed; it never makes a reward up."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rl_data import FinishReason, Sample
from rl_data.grading import GRADERS, Grade, GraderPool
from rl_data.json import JsonValue
from rl_rollout.errors import RolloutConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderConfig:
    """Which rewards there are, and what computing them may take.

    Raises:
        RolloutConfigError: naming the field, if a value makes no sense.
    """

    rm_type: str = field(
        default="math", metadata={"help": "how a response is graded", "choices": tuple(sorted(GRADERS))}
    )
    reward_timeout_s: float = field(default=10.0, metadata={"help": "seconds that grading one response may take"})
    reward_num_workers: int = field(default=2, metadata={"help": "processes that grade at the same time"})

    def __post_init__(self) -> None:
        if self.rm_type not in GRADERS:
            raise RolloutConfigError(f"rm_type: expected one of {sorted(GRADERS)}, got {self.rm_type!r}")
        if self.reward_timeout_s <= 0:
            raise RolloutConfigError(f"reward_timeout_s: expected above 0, got {self.reward_timeout_s}")
        if self.reward_num_workers < 1:
            raise RolloutConfigError(f"reward_num_workers: expected at least 1, got {self.reward_num_workers}")

    def make(self) -> GraderPool:
        """The pool of these settings; the caller closes it."""
        return GraderPool(self.rm_type, num_workers=self.reward_num_workers, timeout_s=self.reward_timeout_s)


class Grader(Protocol):
    """What grades responses, for example `rl_data.GraderPool`."""

    async def grade(self, response: str, label: str | None, metadata: Mapping[str, JsonValue] | None = None) -> Grade:
        """The grade of one response; many calls run at once. A grade without a value is a failure, with its reason."""
        ...


async def grade_many(samples: Sequence[Sample], grader: Grader) -> list[Sample]:
    """The samples with their rewards, in the same order.

    A sample that is scored, cut off (ABORT) or failed (ERROR) already stays as it is. One whose grader fails comes back
    with FinishReason.ERROR and the reason in metadata["error"].
    """
    return list(await asyncio.gather(*(_scored(sample, grader) for sample in samples)))


async def _scored(sample: Sample, grader: Grader) -> Sample:
    if sample.reward is not None or sample.finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
        return sample
    grade = await grader.grade(sample.response_text, sample.label, sample.metadata)
    if grade.value is None:
        return sample.with_error(f"grader: {grade.outcome}: {grade.reason}")
    return sample.with_reward(grade.value)


def is_failed(sample: Sample) -> bool:
    """Whether the sample must not be trained on."""
    return sample.finish_reason is FinishReason.ERROR
