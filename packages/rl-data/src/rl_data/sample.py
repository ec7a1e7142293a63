"""One sample: a prompt and what the policy answered. T = prompt and response tokens together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rl_data.json import JsonValue

type PolicyVersion = int
"""Number of the publish that made a set of weights; the first publish is 1, weights from a file are 0."""


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"  # an end token or a stop string
    LENGTH = "length"  # the token limit
    ABORT = "abort"  # cut off by the caller; may be continued
    ERROR = "error"  # the engine, the environment or the grader failed; metadata["error"] says how


class VersionSpan(NamedTuple):
    """Tokens [start, stop) of a sample were made by one policy version."""

    start: int
    stop: int
    policy_version: PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Tokens of one prompt and one response, aligned arrays and the outcome.

    All arrays have the length of `tokens`; position t speaks of token t.

    Raises:
        ValueError: if lengths differ, the mask covers the prompt, or spans overlap or leave the response.
    """

    group_id: str
    """Group of samples that share a prompt occurrence."""
    index: int
    """Position within the group, from 0."""
    tokens: NDArray[np.int32]
    """[T] prompt tokens, then response tokens."""
    prompt_length: int
    """Number of leading tokens that are the prompt."""
    loss_mask: NDArray[np.bool_]
    """[T] True on the tokens to train: written by the policy, not by a template, a tool or the user."""
    rollout_logprobs: NDArray[np.float32]
    """[T] log-probability under the policy that drew the token; 0.0 where loss_mask is False."""
    spans: tuple[VersionSpan, ...] = ()
    """Which policy version made which response tokens, in order."""
    finish_reason: FinishReason = FinishReason.STOP
    reward: float | None = None
    """None until scored."""
    response_text: str = ""
    """The response, decoded; what graders read."""
    label: str | None = None
    """The reference answer, carried over from the prompt."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    def __post_init__(self) -> None:
        where = f"sample {self.group_id}/{self.index}"
        num_tokens = len(self.tokens)
        for name, array in (("loss_mask", self.loss_mask), ("rollout_logprobs", self.rollout_logprobs)):
            if array.shape != (num_tokens,):
                raise ValueError(f"{where}: expected {name} of shape ({num_tokens},), got {array.shape}")
        if not 0 <= self.prompt_length <= num_tokens:
            raise ValueError(f"{where}: expected prompt_length in [0, {num_tokens}], got {self.prompt_length}")
        if self.loss_mask[: self.prompt_length].any() and self.spans:
            raise ValueError(f"{where}: loss_mask is True inside the prompt's {self.prompt_length} tokens")
        stop = self.prompt_length
        for span in self.spans:
            if not stop <= span.start < span.stop <= num_tokens:
                raise ValueError(f"{where}: span {tuple(span)} overlaps another or leaves [{stop}, {num_tokens}]")
            stop = span.stop

    @property
    def response_length(self) -> int:
        """Number of tokens after the prompt."""
        return len(self.tokens) - self.prompt_length

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens to train."""
        return int(self.loss_mask.sum())

    def with_reward(self, reward: float) -> Self:
        """The same sample, scored."""
        return replace(self, reward=reward)

    def with_error(self, error: str) -> Self:
        """The same sample, marked as failed with the reason in metadata["error"]."""
        return replace(self, finish_reason=FinishReason.ERROR, metadata={**self.metadata, "error": error})


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """All samples of one prompt occurrence; filters and advantages take it whole.

    Raises:
        ValueError: if a sample belongs to another group.
    """

    group_id: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        strangers = {sample.group_id for sample in self.samples} - {self.group_id}
        if strangers:
            raise ValueError(f"group {self.group_id}: holds samples of {sorted(strangers)}")

    @property
    def rewards(self) -> NDArray[np.float32]:
        """[G] float32 rewards.

        Raises:
            ValueError: if a sample has not been scored.
        """
        missing = [sample.index for sample in self.samples if sample.reward is None]
        if missing:
            raise ValueError(f"group {self.group_id}: samples {missing} have no reward")
        return np.array([sample.reward for sample in self.samples], dtype=np.float32)
