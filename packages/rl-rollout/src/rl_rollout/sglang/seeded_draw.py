"""The arithmetic of sampling by seed. B = requests in the batch, V = vocabulary."""

import torch


def invert(weights_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """[B] int64: first index whose cumulative weight exceeds uniform x total; never one of weight 0."""
    cumulative_BV = weights_BV.to(torch.float64).cumsum(dim=-1)
    threshold_B1 = (uniform_B * cumulative_BV[:, -1]).view(-1, 1)
    return torch.searchsorted(cumulative_BV, threshold_B1, right=True).view(-1)


def uniform(seed_B: torch.Tensor, position_B: torch.Tensor) -> torch.Tensor:
    """[B] float64 in [0, 1): output number `position` of the SplitMix64 generator that starts at `seed`.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 17. int64 arithmetic
    wraps as the paper's unsigned one does; the masks make the right shifts logical.
    """
    state = seed_B.to(torch.int64) + (position_B.to(torch.int64) + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    state = state ^ ((state >> 31) & ((1 << 33) - 1))
    return ((state >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
