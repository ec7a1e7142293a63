"""The clipped policy objective of PPO, with separate bounds and with dual clip."""

from typing import NamedTuple

import torch
from torch import Tensor

# exp(20) = 4.9e8 is far above every clip bound in use, while products of two such terms and sums of millions of them
# still fit float32 (3.4e38). Only the upper side can overflow, so only that is clamped; the gradient beyond is 0.
MAX_LOG_RATIO = 20.0


class PolicyTerm(NamedTuple):
    """A policy objective, token by token."""

    loss: Tensor
    """[T] token loss, with gradient."""
    is_clipped: Tensor
    """[T] bool: True where a bound decides the value."""


def ratio_from_log(log_ratio: Tensor) -> Tensor:
    """[T] exp(log_ratio), kept finite by `MAX_LOG_RATIO`."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def clipped_policy_term(
    log_ratio: Tensor, advantages: Tensor, *, eps_low: float, eps_high: float, dual_clip: float | None = None
) -> PolicyTerm:
    """The pessimistic choice between the plain and the clipped objective.

    With r = exp(log_ratio): loss = max(-r A, -clip(r, 1 - eps_low, 1 + eps_high) A), and with dual clip c, where A < 0,
    at most -c A, so that one token whose ratio ran away cannot dominate the step.

    Args:
        log_ratio: [T] log of present over old policy, with gradient.
        advantages: [T].
        eps_low: distance of the lower bound from 1.
        eps_high: distance of the upper bound from 1; larger than eps_low is DAPO's clip-higher.
        dual_clip: c > 1, or None.

    Source: PPO, arXiv:1707.06347, eq. 7; DAPO (clip-higher), arXiv:2503.14476, section 3.1; dual-clip PPO,
        arXiv:1912.09729.
    """
    ratio = ratio_from_log(log_ratio)
    plain = -ratio * advantages
    bounded = -ratio.clamp(1 - eps_low, 1 + eps_high) * advantages
    loss = torch.maximum(plain, bounded)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return PolicyTerm(loss, loss != plain)
