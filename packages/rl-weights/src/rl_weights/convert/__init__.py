"""Conversion between Hugging Face folders and Megatron's torch_dist checkpoints, tensor by tensor."""

from rl_weights.conversion_log import ConvertReport
from rl_weights.convert.ranks import Ranks, ranks_of_torchrun
from rl_weights.convert.to_hf import convert_torch_dist_to_hf
from rl_weights.convert.to_torch_dist import DEFAULT_VOCAB_MULTIPLE, convert_hf_to_torch_dist

__all__ = [
    "DEFAULT_VOCAB_MULTIPLE",
    "ConvertReport",
    "Ranks",
    "convert_hf_to_torch_dist",
    "convert_torch_dist_to_hf",
    "ranks_of_torchrun",
]
