"""Settings of a rollout."""

from dataclasses import dataclass, field
from typing import Literal

from rl_rollout.engine import SamplingParams
from rl_rollout.errors import RolloutConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How many samples a rollout gives and how they are drawn and filtered.

    Raises:
        RolloutConfigError: naming the field, if a value makes no sense.
    """

    rollout_batch_size: int = field(metadata={"help": "groups (prompts) that a rollout gives"})
    n_samples_per_prompt: int = field(default=8, metadata={"help": "samples in a group"})
    over_sampling_batch_size: int | None = field(
        default=None,
        metadata={"help": "prompts that a rollout starts with; default: rollout_batch_size"},
    )
    max_refills: int = field(
        default=100,
        metadata={"help": "times over_sampling_batch_size prompts that may replace dropped groups in one rollout"},
    )
    rollout_max_response_len: int = field(default=1024, metadata={"help": "new tokens of a sample at most"})
    rollout_temperature: float = field(default=1.0, metadata={"help": "sampling temperature"})
    rollout_top_p: float = field(default=1.0, metadata={"help": "nucleus sampling; 1: off"})
    rollout_top_k: int = field(default=-1, metadata={"help": "sampling from the k likeliest tokens; -1: off"})
    rollout_stop: tuple[str, ...] = field(default=(), metadata={"help": "strings that end a response"})
    rollout_stop_token_ids: tuple[int, ...] = field(default=(), metadata={"help": "token ids that end a response"})
    rollout_skip_special_tokens: bool = field(
        default=False, metadata={"help": "leave special tokens out of the response's text"}
    )
    rollout_seed: int = field(default=42, metadata={"help": "seed of the samples"})
    dynamic_sampling_filter: Literal["none", "reward_spread"] = field(
        default="none",
        metadata={
            "help": "groups to keep: all, or those whose rewards differ (DAPO's dynamic sampling)",
            "choices": ("none", "reward_spread"),
        },
    )
    generate_timeout_s: float = field(
        default=600.0,
        metadata={"help": "seconds that an engine may take for a group, those included in which it works at others"},
    )

    def __post_init__(self) -> None:
        prompts_at_once = self.over_sampling_batch_size or self.rollout_batch_size
        checks = (
            ("rollout_batch_size", self.rollout_batch_size, self.rollout_batch_size >= 1, "at least 1"),
            ("n_samples_per_prompt", self.n_samples_per_prompt, self.n_samples_per_prompt >= 1, "at least 1"),
            (
                "over_sampling_batch_size",
                self.over_sampling_batch_size,
                prompts_at_once >= self.rollout_batch_size,
                f"at least rollout_batch_size {self.rollout_batch_size}",
            ),
            ("max_refills", self.max_refills, self.max_refills >= 0, "at least 0"),
            (
                "rollout_max_response_len",
                self.rollout_max_response_len,
                self.rollout_max_response_len >= 1,
                "at least 1",
            ),
            ("rollout_temperature", self.rollout_temperature, self.rollout_temperature > 0, "a number above 0"),
            ("rollout_top_p", self.rollout_top_p, 0 < self.rollout_top_p <= 1, "a number in (0, 1]"),
            (
                "rollout_top_k",
                self.rollout_top_k,
                self.rollout_top_k == -1 or self.rollout_top_k >= 1,
                "-1 or at least 1",
            ),
            (
                "dynamic_sampling_filter",
                self.dynamic_sampling_filter,
                self.dynamic_sampling_filter in ("none", "reward_spread"),
                "none or reward_spread",
            ),
            ("generate_timeout_s", self.generate_timeout_s, self.generate_timeout_s > 0, "a number above 0"),
        )
        for name, value, is_valid, expected in checks:
            if not is_valid:
                raise RolloutConfigError(f"{name} {value}: expected {expected}")

    @property
    def sampling(self) -> SamplingParams:
        """How the engines draw."""
        return SamplingParams(
            max_new_tokens=self.rollout_max_response_len,
            temperature=self.rollout_temperature,
            top_p=self.rollout_top_p,
            top_k=self.rollout_top_k,
            stop=self.rollout_stop,
            stop_token_ids=self.rollout_stop_token_ids,
            skip_special_tokens=self.rollout_skip_special_tokens,
        )
