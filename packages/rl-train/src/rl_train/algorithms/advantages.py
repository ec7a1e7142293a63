"""From rewards to advantages. G = samples of a group, T = tokens of a sample."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rl_data import SampleGroup
from rl_train.algorithms.config import AlgorithmConfig
from rl_train.algorithms.grpo import centred, standardised
from rl_train.algorithms.maxrl import mean_normalised
from rl_train.algorithms.reinforce_plus_plus import discounted_returns, final_rewards, whiten
from rl_train.algorithms.rloo import leave_one_out


def compute_advantages(groups: Sequence[SampleGroup], config: AlgorithmConfig) -> list[list[NDArray[np.float32]]]:
    """The advantage of every token: per group, per sample, [T] float32, 0 where loss_mask is False.

    Baselines come from the sample's own group. Groups may differ in size; under an estimator with a group baseline a
    group of one gets 0 (before whitening). Whitening (--normalize-advantages) runs over the trained tokens of all the
    groups given, so give the whole step at once. Computed in float64.

    Args:
        groups: all groups of the step, scored.
        config: the estimator and its settings.

    Raises:
        ValueError: if a group appears twice, or a reward is missing, not finite, or negative under maxrl.
    """
    _check(groups)
    masks = [sample.loss_mask for group in groups for sample in group.samples]
    signals = [signal for group in groups for signal in sample_signals(group, config)]
    if config.advantage_estimator == "reinforce_plus_plus":
        advantages = [
            discounted_returns(final_rewards(reward, mask), mask, config.gamma)
            for reward, mask in zip(signals, masks, strict=True)
        ]
    else:
        advantages = [np.where(mask, signal, 0.0) for signal, mask in zip(signals, masks, strict=True)]
    if config.normalize_advantages:
        advantages = whiten(advantages, masks)
    flat = iter([advantage.astype(np.float32) for advantage in advantages])
    return [list(islice(flat, len(group.samples))) for group in groups]


def sample_signals(group: SampleGroup, config: AlgorithmConfig) -> list[float]:
    """[G] what each sample of one group learns from: its reward against the estimator's baseline."""
    rewards = group.rewards.astype(np.float64)
    match config.advantage_estimator:
        case "grpo" | "gspo" | "cispo":
            if not config.rewards_normalization:
                signals = rewards
            else:
                signals = standardised(rewards) if config.grpo_std_normalization else centred(rewards)
        case "dr_grpo":
            signals = centred(rewards)
        case "reinforce_plus_plus_baseline":
            signals = centred(rewards) if config.rewards_normalization else rewards
        case "reinforce_plus_plus":
            signals = rewards
        case "rloo":
            signals = leave_one_out(rewards)
        case "maxrl":
            signals = mean_normalised(rewards)
    return [float(signal) for signal in signals]


def _check(groups: Sequence[SampleGroup]) -> None:
    seen: set[str] = set()
    for group in groups:
        if group.group_id in seen:
            raise ValueError(f"group {group.group_id} appears twice: its baseline needs all its samples together")
        seen.add(group.group_id)
        bad = [
            sample.index for sample, reward in zip(group.samples, group.rewards, strict=True) if not np.isfinite(reward)
        ]
        if bad:
            raise ValueError(
                f"group {group.group_id}: rewards of samples {bad} are not finite: {group.rewards.tolist()}"
            )
