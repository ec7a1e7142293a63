"""CISPO: the importance weight is clipped, the gradient is not."""

from torch import Tensor

from rl_train.algorithms.clipped import PolicyTerm, ratio_from_log


def cispo_term(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, *, eps_low: float, eps_high: float
) -> PolicyTerm:
    """REINFORCE weighted by a clipped ratio without gradient: -sg(clip(r, 1 - eps_low, 1 + eps_high)) A log p.

    Every token keeps a gradient, whereas the clipped objective drops tokens whose ratio left the bounds.
    Both bounds count, as in slime; the paper switches the lower one off, which eps_low >= 1 does.

    Args:
        log_ratio: [T] log of present over old policy; its gradient is not used.
        logprobs: [T] under the present policy, with gradient.
        advantages: [T].
        eps_low: distance of the lower bound from 1.
        eps_high: distance of the upper bound from 1.

    Source: MiniMax-M1, arXiv:2506.13585, section 3.1, eq. 4 and 5.
    """
    ratio = ratio_from_log(log_ratio.detach())
    bounded = ratio.clamp(1 - eps_low, 1 + eps_high)
    return PolicyTerm(-bounded * advantages * logprobs, bounded != ratio)
