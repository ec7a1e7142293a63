"""Sampling on a CPU where each request's `sampling_seed` decides its tokens.

Reason: SGLang honours `sampling_seed` in its deterministic mode only, which needs Triton kernels. The tokens of a
request depend here on its seed, the position and the probabilities alone, not on what else is in the batch.
Remove it when SGLang honours `sampling_seed` with the pytorch sampling backend outside of deterministic mode.

B = requests in the batch, V = vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from sglang.srt.layers.sampler import Sampler, register_sampler_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch


def register() -> None:
    """Makes `sampling_backend="seeded"` known to SGLang in this process."""
    register_sampler_backend("seeded", SeededSampler)
    HookRegistry.register(
        "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch", _attach_seeds, HookType.AFTER
    )
    HookRegistry.apply_hooks()  # SGLang has done so before it imports what calls this


def _attach_seeds(sampling: SamplingBatchInfo, cls: type, batch: "ScheduleBatch", vocab_size: int) -> SamplingBatchInfo:
    seeds = [request.sampling_params.sampling_seed for request in batch.reqs]
    if None in seeds:
        drawn = torch.randint(2**62, (len(seeds),)).tolist()
        seeds = [fresh if seed is None else seed for seed, fresh in zip(seeds, drawn, strict=True)]
    sampling.sampling_seed = torch.tensor(seeds, dtype=torch.int64)
    return sampling


class SeededSampler(Sampler):
    """Draws by inverting the cumulative distribution at a uniform number made of (seed, position)."""

    def _sample_from_probs(
        self,
        probs: torch.Tensor,
        sampling_info: SamplingBatchInfo,
        positions: torch.Tensor,
        simple_sampling_case: bool,
    ) -> torch.Tensor:
        """[B] int32 token ids; probs is [B, V] and stays as it is."""
        assert sampling_info.sampling_seed is not None, "_attach_seeds has not run"
        uniform_B = uniform(sampling_info.sampling_seed, positions)
        if simple_sampling_case:
            return _invert(probs, uniform_B).to(torch.int32)
        sorted_BV, token_BV = probs.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        rank_V = torch.arange(probs.shape[-1])
        keep_BV = (rank_V < sampling_info.top_ks.view(-1, 1)) & (before_BV <= sampling_info.top_ps.view(-1, 1))
        if sampling_info.need_min_p_sampling:
            keep_BV &= sorted_BV >= sorted_BV[:, :1] * sampling_info.min_ps.view(-1, 1)
        chosen_B = _invert(sorted_BV * keep_BV, uniform_B)
        return token_BV.gather(1, chosen_B.view(-1, 1)).view(-1).to(torch.int32)


def _invert(weights_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
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
