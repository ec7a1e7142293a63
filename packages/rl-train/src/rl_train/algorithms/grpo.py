"""Baselines from the group itself: GRPO, Dr.GRPO, RLOO, MaxRL. G = samples of a group, of any number."""

import numpy as np
from numpy.typing import NDArray

# Added to the standard deviation, so that a group whose rewards are nearly equal is not blown up. slime and verl: 1e-6.
STD_EPSILON = 1e-6


def centred(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] r - mean(r); a group of one gives 0.

    Source: Dr.GRPO, "Understanding R1-Zero-Like Training", arXiv:2503.20783, section 3.2.
    """
    return rewards - rewards.mean()


def standardised(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] (r - mean(r)) / (std(r) + 1e-6); a group of one gives 0.

    std is the sample standard deviation (divisor G - 1, the default of torch.std), as in slime, verl and TRL, so that a
    recipe moved from there keeps its step size. The population one (divisor G) would make advantages larger by
    sqrt(G / (G - 1)).

    Source: DeepSeekMath, arXiv:2402.03300, section 4.1.2.
    """
    if len(rewards) < 2:
        return np.zeros_like(rewards)
    return centred(rewards) / (rewards.std(ddof=1) + STD_EPSILON)
