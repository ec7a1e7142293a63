"""Sampling on a CPU where each request's `sampling_seed` decides its tokens.

Reason: SGLang honours `sampling_seed` in its deterministic mode only, which needs Triton kernels. The tokens of a
request depend here on its seed, the position and the probabilities alone, not on what else is in the batch.
Remove it when SGLang honours `sampling_seed` with the pytorch sampling backend outside of deterministic mode.

B = requests in the batch, V = vocabulary.
"""

# pyright: standard
# SGLang is annotated in part only.

from typing import TYPE_CHECKING

import torch
from sglang.srt.layers.sampler import Sampler, register_sampler_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

from rl_rollout.sglang.seeded_draw import invert, uniform

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
            return invert(probs, uniform_B).to(torch.int32)
        sorted_BV, token_BV = probs.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        rank_V = torch.arange(probs.shape[-1])
        keep_BV = (rank_V < sampling_info.top_ks.view(-1, 1)) & (before_BV <= sampling_info.top_ps.view(-1, 1))
        if sampling_info.need_min_p_sampling:
            keep_BV &= sorted_BV >= sorted_BV[:, :1] * sampling_info.min_ps.view(-1, 1)
        chosen_B = invert(sorted_BV * keep_BV, uniform_B)
        return token_BV.gather(1, chosen_B.view(-1, 1)).view(-1).to(torch.int32)
