"""Which algorithm trains the policy, and its numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, get_args

from rl_data import LossReduction
from rl_train.errors import TrainConfigError

AdvantageEstimator = Literal[
    "grpo",
    "dr_grpo",
    "gspo",
    "cispo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "rloo",
    "maxrl",
]
KLType = Literal["k1", "k2", "k3", "low_var_kl"]
RatioLevel = Literal["token", "sequence", "geometric"]
TISMode = Literal["truncate", "mask"]

# Estimators that divide the centred rewards by the group's standard deviation unless told otherwise.
STD_NORMALIZED = frozenset({"grpo", "gspo", "cispo"})
# Estimators whose group baseline --disable-rewards-normalization takes away.
BASELINE_OPTIONAL = STD_NORMALIZED | {"reinforce_plus_plus_baseline"}
# Estimators that are defined with whitening over the whole batch (REINFORCE++, arXiv:2501.03262).
WHITENED = frozenset({"reinforce_plus_plus", "reinforce_plus_plus_baseline"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmConfig:
    """The advantage estimator, the policy loss and its corrections.

    Flags and meanings are slime's unless the help says otherwise.

    Raises:
        TrainConfigError: if a value is out of range, two settings contradict each other, or a setting would have
            no effect under the others.

    Example:
        >>> AlgorithmConfig(advantage_estimator="grpo", eps_clip=0.2, eps_clip_high=0.28).clip_high
        0.28
    """

    advantage_estimator: AdvantageEstimator = field(
        default="grpo",
        metadata={
            "help": "How rewards become advantages; gspo and cispo also change the policy loss.",
            "choices": get_args(AdvantageEstimator),
        },
    )
    rewards_normalization: bool = field(
        default=True,
        metadata={
            "help": "Train on raw rewards: the group's mean is not subtracted, nor is its deviation divided out.",
            "flag": "--disable-rewards-normalization",
        },
    )
    grpo_std_normalization: bool = field(
        default=True,
        metadata={
            "help": "Do not divide by the standard deviation of the group's rewards (as Dr.GRPO).",
            "flag": "--disable-grpo-std-normalization",
        },
    )
    normalize_advantages: bool = field(
        default=False,
        metadata={"help": "Whiten advantages over all trained tokens of the step: mean 0, standard deviation 1."},
    )
    gamma: float = field(
        default=1.0, metadata={"help": "Discount of the return per trained token, for reinforce_plus_plus."}
    )
    calculate_per_token_loss: bool = field(
        default=False,
        metadata={"help": "Mean of the loss over trained tokens, instead of over samples of each sample's mean."},
    )
    eps_clip: float = field(default=0.2, metadata={"help": "The ratio is clipped from below at 1 - eps_clip."})
    eps_clip_high: float | None = field(
        default=None, metadata={"help": "The ratio is clipped from above at 1 + eps_clip_high; default: eps_clip."}
    )
    eps_clip_c: float | None = field(
        default=None,
        metadata={
            "help": "Dual clip: the loss of a token with a negative advantage is at most this times |advantage|."
        },
    )
    use_kl_loss: bool = field(
        default=False,
        metadata={
            "help": "Add the divergence from the reference policy to the loss; a coefficient of 0 only measures it."
        },
    )
    kl_loss_coef: float = field(default=0.0, metadata={"help": "Coefficient of the divergence in the loss."})
    kl_loss_type: KLType = field(
        default="k1", metadata={"help": "Estimator of the divergence.", "choices": get_args(KLType)}
    )
    use_unbiased_kl: bool = field(
        default=False,
        metadata={"help": "Weight the divergence by the ratio of present and old policy (DeepSeek-V3.2)."},
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Coefficient of the entropy bonus."})
    use_rollout_logprobs: bool = field(
        default=False,
        metadata={"help": "Take the engine's log-probabilities as those of the old policy."},
    )
    use_tis: bool = field(
        default=False,
        metadata={"help": "Weight the policy loss by the truncated ratio of the trainer's and the engine's policy."},
    )
    tis_clip: float = field(default=2.0, metadata={"help": "Upper bound of the importance weight."})
    tis_clip_low: float = field(default=0.0, metadata={"help": "Lower bound of the importance weight."})
    tis_level: RatioLevel = field(
        default="token",
        metadata={
            "help": "One importance weight per token, or one per sequence: product (sequence) or geometric mean of its "
            "tokens' ratios. Our flag.",
            "choices": get_args(RatioLevel),
        },
    )
    tis_mode: TISMode = field(
        default="truncate",
        metadata={
            "help": "Outside the bounds the importance weight is set to the bound, or to 0 (mask: IcePop). Our flag.",
            "choices": get_args(TISMode),
        },
    )
    use_rs: bool = field(
        default=False,
        metadata={"help": "Drop tokens or sequences whose trainer/engine ratio leaves the rs bounds. Our flag."},
    )
    rs_level: RatioLevel = field(
        default="geometric",
        metadata={
            "help": "What --use-rs judges: a token's ratio, or product or geometric mean of a sequence's. Our flag.",
            "choices": get_args(RatioLevel),
        },
    )
    rs_lower_bound: float | None = field(default=None, metadata={"help": "Lowest ratio that --use-rs keeps."})
    rs_upper_bound: float | None = field(default=None, metadata={"help": "Highest ratio that --use-rs keeps."})
    use_opsm: bool = field(
        default=False,
        metadata={
            "help": "Drop sequences with a negative advantage that moved further from the old policy than opsm_delta."
        },
    )
    opsm_delta: float = field(
        default=1e-4, metadata={"help": "Mean of old minus present log-probability from which --use-opsm drops."}
    )

    def __post_init__(self) -> None:
        problem = next(chain(self._bad_values(), self._contradictions(), self._without_effect()), None)
        if problem is not None:
            raise TrainConfigError(problem)

    @property
    def clip_high(self) -> float:
        """eps_clip_high, or eps_clip where none was given."""
        return self.eps_clip if self.eps_clip_high is None else self.eps_clip_high

    @property
    def loss_reduction(self) -> LossReduction:
        """What `rl_data.pack` has to put into the loss weights.

        "token": each trained token counts the same. "sample": each sample counts the same, as the mean of its
        tokens. Dr.GRPO is always "token": dividing by a sample's own length is the bias that it removes.
        """
        return "token" if self.calculate_per_token_loss or self.advantage_estimator == "dr_grpo" else "sample"

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities under the reference policy must be computed."""
        return self.use_kl_loss

    @property
    def needs_entropy(self) -> bool:
        """Whether the loss needs the entropy with its gradient."""
        return self.entropy_coef != 0

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether old log-probabilities must be computed once a second optimizer step follows the same rollout."""
        return not self.use_rollout_logprobs

    def _bad_values(self) -> Iterator[str]:
        for name in ("advantage_estimator", "kl_loss_type", "tis_level", "tis_mode", "rs_level"):
            choices = type(self).__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                yield f"{name} {getattr(self, name)}: expected one of {', '.join(choices)}"
        for name in ("eps_clip", "eps_clip_high", "kl_loss_coef", "tis_clip_low", "opsm_delta"):
            yield from _unless_finite_and(name, getattr(self, name), at_least=0.0)
        yield from _unless_finite_and("tis_clip", self.tis_clip, at_least=self.tis_clip_low)
        yield from _unless_finite_and("entropy_coef", self.entropy_coef, at_least=-math.inf)
        if not 0 < self.gamma <= 1:
            yield f"gamma {self.gamma}: expected a discount in (0, 1]"
        if self.eps_clip_c is not None and not 1 < self.eps_clip_c < math.inf:
            yield f"eps_clip_c {self.eps_clip_c}: expected a bound above 1"

    def _contradictions(self) -> Iterator[str]:
        if self.advantage_estimator in WHITENED and not self.normalize_advantages:
            yield f"advantage_estimator {self.advantage_estimator} whitens by definition: it needs normalize_advantages"
        if self.use_rollout_logprobs and (self.use_tis or self.use_rs):
            yield (
                f"use_rollout_logprobs contradicts {'use_tis' if self.use_tis else 'use_rs'}: "
                "the ratio of the loss already starts at the engine's log-probabilities"
            )
        if self.use_rs:
            low, high = self.rs_lower_bound, self.rs_upper_bound
            if low is None or high is None or not 0 <= low < high:
                yield f"use_rs: expected 0 <= rs_lower_bound < rs_upper_bound, got {low} and {high}"

    def _without_effect(self) -> Iterator[str]:
        estimator = f"advantage_estimator {self.advantage_estimator}"
        if not self.rewards_normalization and self.advantage_estimator not in BASELINE_OPTIONAL:
            yield f"rewards_normalization False has no effect under {estimator}"
        if not self.grpo_std_normalization and self.advantage_estimator not in STD_NORMALIZED | {"dr_grpo"}:
            yield f"grpo_std_normalization False has no effect under {estimator}"
        if self.gamma != 1 and self.advantage_estimator != "reinforce_plus_plus":
            yield f"gamma {self.gamma} has no effect under {estimator}; it discounts for reinforce_plus_plus"
        if self.eps_clip_c is not None and self.advantage_estimator == "cispo":
            yield f"eps_clip_c {self.eps_clip_c} has no effect under {estimator}: its ratio is bounded already"
        yield from self._changed_without(
            "use_kl_loss", ("kl_loss_coef", "use_unbiased_kl")
        )  # kl_loss_type alone is harmless and stands in many presets
        yield from self._changed_without("use_tis", ("tis_clip", "tis_clip_low", "tis_level", "tis_mode"))
        yield from self._changed_without("use_rs", ("rs_level", "rs_lower_bound", "rs_upper_bound"))
        yield from self._changed_without("use_opsm", ("opsm_delta",))

    def _changed_without(self, switch: str, names: tuple[str, ...]) -> Iterator[str]:
        if getattr(self, switch):
            return
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                yield f"{name} {getattr(self, name)} has no effect without {switch}"


def _unless_finite_and(name: str, value: float | None, *, at_least: float) -> Iterator[str]:
    if value is not None and not (math.isfinite(value) and value >= at_least):
        yield f"{name} {value}: expected a finite number of at least {at_least}"
