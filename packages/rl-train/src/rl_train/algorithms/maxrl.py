"""MaxRL: success rates enter by their logarithm, so that hard prompts weigh more."""

import numpy as np
from numpy.typing import NDArray


def mean_normalised(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] (r - mean(r)) / mean(r); a group without any success, or of one sample, gives 0.

    It is the gradient of log(success rate) where GRPO's baseline follows the success rate itself.

    Args:
        rewards: [G] rewards of one group, none negative: mean(r) stands for the success rate.

    Raises:
        ValueError: if a reward is negative.

    Source: "Maximum Likelihood Reinforcement Learning", arXiv:2602.02710, the on-policy estimator.
    """
    if (rewards < 0).any():
        raise ValueError(f"maxrl: expected rewards of at least 0, got {rewards.tolist()}")
    mean = rewards.mean()
    return np.zeros_like(rewards) if mean == 0 else (rewards - mean) / mean
