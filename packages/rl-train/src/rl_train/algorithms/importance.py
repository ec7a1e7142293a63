"""Corrections for samples that came from another policy than the trainer's: weights and masks without gradient."""

from typing import NamedTuple

import torch
from torch import Tensor

from rl_train.algorithms.clipped import ratio_from_log
from rl_train.algorithms.config import RatioLevel, TISMode
from rl_train.algorithms.sequences import Sequences


class ImportanceWeights(NamedTuple):
    """Importance weights of the trainer's old policy over the engine's."""

    weights: Tensor
    """[T] what the policy loss is multiplied by."""
    ratio: Tensor
    """[T] the ratio before truncation or masking."""
    is_clipped: Tensor
    """[T] bool: True where a bound changed it."""


def policy_ratio(log_ratio: Tensor, level: RatioLevel, sequences: Sequences) -> Tensor:
    """[T] ratio of trainer over engine at the given level, without gradient.

    token: exp(l_t); sequence: exp(sum of l over the sequence's trained tokens); geometric: exp(their mean).

    Args:
        log_ratio: [T] old log-probability of the trainer minus the engine's, 0 where untrained.
        level: what one ratio speaks of.
        sequences: the sequences of the packed row.
    """
    log_ratio = log_ratio.detach()
    if level == "sequence":
        log_ratio = sequences.sum(log_ratio)
    elif level == "geometric":
        log_ratio = sequences.mean(log_ratio)
    return ratio_from_log(log_ratio)


def importance_weights(ratio: Tensor, mode: TISMode, *, low: float, high: float) -> ImportanceWeights:
    """Bounded importance weights: truncated importance sampling, or IcePop's mask.

    truncate: clip(ratio, low, high). mask: the ratio inside [low, high], 0 outside.

    Source: TIS, Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), section
        on truncated importance sampling; IcePop: "Every Step Evolves", arXiv:2510.18855, section on IcePop.
    """
    if mode == "truncate":
        weights = ratio.clamp(low, high)
    else:
        weights = torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))
    return ImportanceWeights(weights, ratio, weights != ratio)


def is_within(ratio: Tensor, *, low: float, high: float) -> Tensor:
    """[T] bool: True where the ratio lies in [low, high]; rejection sampling keeps these without weighting them.

    Source: Liu et al., "When Speed Kills Stability: Demystifying RL Collapse from the Training-Inference Mismatch"
        (2025), masked importance sampling at token and sequence level; the geometric mean frees it of the length.
    """
    return (ratio >= low) & (ratio <= high)


def is_on_policy_enough(log_ratio: Tensor, advantages: Tensor, sequences: Sequences, *, delta: float) -> Tensor:
    """[T] bool: False on tokens with a negative advantage in a sequence with mean(log p_old - log p) > delta.

    Args:
        log_ratio: [T] log of present over old policy, 0 where untrained.
        advantages: [T].
        sequences: the sequences of the packed row.
        delta: threshold, in nats a token.

    Source: DeepSeek-V3.2, arXiv:2512.02556, section 3.1 (Scaling GRPO), off-policy sequence masking.
    """
    drift = -sequences.mean(log_ratio.detach())
    return ~((advantages < 0) & (drift > delta))
