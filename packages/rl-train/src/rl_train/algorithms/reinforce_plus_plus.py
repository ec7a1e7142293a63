"""REINFORCE++: discounted returns of each sample, whitened over the whole batch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Added to the variance before its root; slime, OpenRLHF and verl: 1e-8.
VARIANCE_EPSILON = 1e-8


def discounted_returns(
    token_rewards: NDArray[np.float64], loss_mask: NDArray[np.bool_], gamma: float
) -> NDArray[np.float64]:
    """[T] G_t = r_t + gamma G_next over the trained tokens, 0 elsewhere.

    Tokens that the policy did not write (observations, padding) are not steps: they are passed over without a
    discount, their rewards do not count, and their return is 0. verl does this; SkyRL leaves the raw reward in a masked
    tail, slime discounts through observations.

    Args:
        token_rewards: [T] reward given at each token.
        loss_mask: [T] True on trained tokens.
        gamma: discount per trained token.

    Source: REINFORCE++, arXiv:2501.03262, the reward-to-go of a token.
    """
    returns = np.zeros_like(token_rewards)
    running = 0.0
    for t in np.flatnonzero(loss_mask)[::-1]:
        running = token_rewards[t] + gamma * running
        returns[t] = running
    return returns


def final_rewards(reward: float, loss_mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[T] the sample's reward at its last trained token, 0 elsewhere."""
    token_rewards = np.zeros(len(loss_mask))
    trained = np.flatnonzero(loss_mask)
    if trained.size:
        token_rewards[trained[-1]] = reward
    return token_rewards


def whiten(
    advantages: Sequence[NDArray[np.float64]], loss_masks: Sequence[NDArray[np.bool_]]
) -> list[NDArray[np.float64]]:
    """Advantages with mean 0 and standard deviation 1 over all trained tokens of the batch; 0 elsewhere.

    (A - mean) / sqrt(var + 1e-8), var with divisor N - 1 as in slime. Fewer than two trained tokens, or equal
    advantages, give 0.

    Args:
        advantages: per sample [T].
        loss_masks: per sample [T] True on trained tokens.

    Source: REINFORCE++, arXiv:2501.03262, global advantage normalization.
    """
    trained = np.concatenate([a[m] for a, m in zip(advantages, loss_masks, strict=True)] or [np.zeros(0)])
    if trained.size < 2:
        return [np.zeros_like(a) for a in advantages]
    mean, scale = trained.mean(), 1 / np.sqrt(trained.var(ddof=1) + VARIANCE_EPSILON)
    return [np.where(m, (a - mean) * scale, 0.0) for a, m in zip(advantages, loss_masks, strict=True)]
