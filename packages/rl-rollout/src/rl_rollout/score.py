"""Rewards of samples. A grader that fails marks its sample as failed; it never makes a reward up."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rl_data import FinishReason, Sample
from rl_data.grading import Grade, GradeOutcome
from rl_data.json import JsonValue


class Grader(Protocol):
    """What grades responses, for example `rl_data.GraderPool`."""

    async def grade(
        self,
        response: str,
        label: str | None,
        metadata: Mapping[str, JsonValue] | None = None,
        *,
        num_tokens: int | None = None,
    ) -> Grade:
        """The grade of a response of `num_tokens` tokens; many calls run at once.

        A grade without a value is a failure, with its reason.
        """
        ...


async def grade_many(samples: Sequence[Sample], grader: Grader) -> list[Sample]:
    """The samples with their rewards, in the same order.

    A sample that is scored, cut off (ABORT) or failed (ERROR) already stays as it is. The others get the grade's
    outcome and reason into metadata["grade_outcome"] and metadata["grade_reason"]. One whose grader fails comes back
    with FinishReason.ERROR, and with the reason in metadata["error"] as well.
    """
    return list(await asyncio.gather(*(_scored(sample, grader) for sample in samples)))


async def _scored(sample: Sample, grader: Grader) -> Sample:
    if sample.reward is not None or sample.finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
        return sample
    grade = await grader.grade(sample.response_text, sample.label, sample.metadata, num_tokens=sample.response_length)
    metadata = {**sample.metadata, "grade_outcome": grade.outcome.value, "grade_reason": grade.reason}
    sample = replace(sample, metadata=metadata)
    if grade.value is None:
        return sample.with_error(f"grader: {grade.outcome}: {grade.reason}")
    return sample.with_reward(grade.value)


def num_grader_failures(samples: Iterable[Sample]) -> dict[str, int]:
    """How many of the samples have no grade because the grader was too slow or failed.

    Returns:
        num_grader_timeouts and num_grader_crashes.
    """
    outcomes = Counter(sample.metadata.get("grade_outcome") for sample in samples)
    return {
        "num_grader_timeouts": outcomes[GradeOutcome.TIMEOUT.value],
        "num_grader_crashes": outcomes[GradeOutcome.CRASH.value],
    }


def is_failed(sample: Sample) -> bool:
    """Whether the sample must not be trained on."""
    return sample.finish_reason is FinishReason.ERROR
