"""RLOO: each sample is measured against the others of its group."""

import numpy as np
from numpy.typing import NDArray


def leave_one_out(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """[G] r_i - mean of the others' rewards = G / (G - 1) x (r_i - mean(r)); a group of one gives 0.

    Args:
        rewards: [G] rewards of one group.

    Source: "Back to Basics", arXiv:2402.14740, REINFORCE leave-one-out.
    """
    num_samples = len(rewards)
    if num_samples < 2:
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) * (num_samples / (num_samples - 1))
