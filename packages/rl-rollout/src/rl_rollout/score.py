"""Rewards of samples. A grader that fails marks its sample as failed; it never makes a reward up."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from rl_data import FinishReason, Sample
from rl_data.grading import Grade
from rl_data.json import JsonValue


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
