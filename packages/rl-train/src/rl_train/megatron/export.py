"""The trainer's weights under their Hugging Face names, gathered from all ranks."""

# pyright: standard
# Megatron-Core is annotated in part only.

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from rl_data.json import JsonValue
from rl_train.megatron.model import module_of
from rl_train.megatron.parallel import from_every_rank
from rl_train.megatron.weights import global_names, rules_of
from rl_weights import ShardedSource, TrainerLayout


class _Holding(NamedTuple):
    """What one rank holds."""

    data_rank: int
    tensor_rank: int
    pipeline_rank: int
    dtype: str
    """Of its first parameter."""
    names: list[str]


class MegatronTensorSource(ShardedSource):
    """Satisfies `rl_weights.TensorSource`. Global rank 0 is the writer.

    Parts travel to it from the ranks of the first data-parallel copy. Making one is collective.
    """

    def __init__(self, model: torch.nn.Module, model_config: Mapping[str, JsonValue]) -> None:
        module = module_of(model)
        parts = global_names(module)
        first = next(iter(parts.values()))
        holding = _Holding(
            data_rank=parallel_state.get_data_parallel_rank(),
            tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
            pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
            dtype=str(first.dtype).removeprefix("torch."),
            names=list(parts),
        )
        told = [_Holding(*json.loads(one)) for one in from_every_rank(json.dumps(holding).encode(), first.device)]
        super().__init__(
            rules=rules_of(module, model_config),
            # One dtype for all, so that a publish names the rank that has another, rather than plan otherwise there.
            layout=TrainerLayout(holders=_holders(told), dtype=told[0].dtype),
            parts=parts,
            rank=dist.get_rank(),
            group=dist.group.WORLD if dist.get_world_size() > 1 else None,
        )


def _holders(holdings: Sequence[_Holding]) -> dict[str, tuple[int, ...]]:
    """Name -> ranks of the first data-parallel copy with its tensor-parallel parts, in their order.

    Of stages that hold the same tensor the first counts: a tied output layer on the last stage has no rule, and what
    the embedding is, the first stage knows.
    """
    first_copy = sorted(
        (one.pipeline_rank, one.tensor_rank, rank) for rank, one in enumerate(holdings) if one.data_rank == 0
    )
    stage_of: dict[str, int] = {}
    holders: dict[str, tuple[int, ...]] = {}
    for stage, _, rank in first_copy:
        for name in holdings[rank].names:
            if stage_of.setdefault(name, stage) == stage:
                holders[name] = (*holders.get(name, ()), rank)
    return holders
