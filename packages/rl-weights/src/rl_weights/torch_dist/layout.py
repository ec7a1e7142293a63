"""Which rank of Megatron's holds which part of which tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rl_weights.errors import CheckpointError
from rl_weights.rules import TensorRule
from rl_weights.rules.box import Box
from rl_weights.torch_dist.names import layer_of

_BEFORE_LAYERS = "embedding."


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLayout:
    """Parallel sizes, as Megatron's flags give them; ranks are ordered as by Megatron's default, tp-cp-ep-dp-pp."""

    tensor: int = 1
    """--tensor-model-parallel-size."""
    pipeline: int = 1
    """--pipeline-model-parallel-size."""
    expert: int = 1
    """--expert-model-parallel-size."""
    expert_tensor: int | None = None
    """--expert-tensor-parallel-size; the tensor-parallel size if None."""
    first_stage_layers: int | None = None
    """--decoder-first-pipeline-num-layers; as many as the other stages have if None."""
    last_stage_layers: int | None = None
    """--decoder-last-pipeline-num-layers; as many as the other stages have if None."""

    def __post_init__(self) -> None:
        sizes = (self.tensor, self.pipeline, self.expert, self.tensor_of_experts)
        if min(sizes) < 1:
            raise CheckpointError(f"parallel sizes: expected at least 1, got {self}")

    def __str__(self) -> str:
        shown = f"TP {self.tensor} and PP {self.pipeline}"
        return shown if self.expert == 1 else f"{shown} and EP {self.expert}"

    @property
    def tensor_of_experts(self) -> int:
        """Ranks over which each expert is sliced."""
        return self.tensor if self.expert_tensor is None else self.expert_tensor

    def layers_of_stages(self, num_layers: int) -> tuple[range, ...]:
        """The layers of each pipeline stage.

        Raises:
            CheckpointError: if they do not divide over the stages.
        """
        given = ((0, self.first_stage_layers), (self.pipeline - 1, self.last_stage_layers))
        fixed = {stage: count for stage, count in given if count is not None}
        num_others, left = self.pipeline - len(fixed), num_layers - sum(fixed.values())
        share = left // num_others if num_others else 0
        if min([*fixed.values(), *[share] * num_others]) < 1 or share * num_others != left:
            uneven = f", of which {fixed} are given" if fixed else ""
            raise CheckpointError(f"{num_layers} layers do not divide over {self.pipeline} pipeline stages{uneven}")
        ends = [0]
        for stage in range(self.pipeline):
            ends.append(ends[-1] + fixed.get(stage, share))
        return tuple(range(start, end) for start, end in pairwise(ends))

    def check(self, rules: Sequence[TensorRule], num_layers: int, num_experts: int) -> None:
        """Checks that the model can have this layout.

        Raises:
            CheckpointError: naming the tensor, the layers or the experts that do not divide.
        """
        self.layers_of_stages(num_layers)
        if num_experts % self.expert or (self.expert > 1 and not num_experts):
            raise CheckpointError(f"{num_experts} experts do not divide over {self.expert} expert-parallel ranks")
        for rule in rules:
            rule.boxes(0, self._slices(rule))

    def boxes(self, rule: TensorRule) -> list[tuple[int, Box]]:
        """Every part of a tensor that is saved by itself, with the tensor-parallel rank that holds it."""
        num_slices = self._slices(rule)
        return [(rank, box) for rank in range(num_slices) for box in rule.boxes(rank, num_slices)]

    def _slices(self, rule: TensorRule) -> int:
        return self.tensor if rule.expert is None else self.tensor_of_experts


class Ownership:
    """Which of the ranks of one run writes which part: one of those that hold it, the one with the least to write.

    Args:
        layout: of the run.
        num_ranks: of the run; with one, that rank writes everything.
        num_layers: of the model.
        num_experts: of each layer that has experts.

    Raises:
        CheckpointError: if the ranks do not make whole copies of the model.
    """

    def __init__(self, layout: ParallelLayout, num_ranks: int, num_layers: int, num_experts: int) -> None:
        self._layout = layout
        self._num_ranks = num_ranks
        self._stage_of = {
            layer: stage for stage, layers in enumerate(layout.layers_of_stages(num_layers)) for layer in layers
        }
        self._experts_of_rank = max(num_experts // layout.expert, 1)
        self._ranks_of_stage, rest = divmod(num_ranks, layout.pipeline)
        self._num_bytes = [0] * num_ranks
        expert_ranks = layout.tensor_of_experts * layout.expert
        if num_ranks > 1 and (rest or self._ranks_of_stage % layout.tensor or self._ranks_of_stage % expert_ranks):
            raise CheckpointError(f"{num_ranks} ranks cannot be laid out with {layout}: expected a multiple of them")

    def take(self, rule: TensorRule, tp_rank: int, box: Box, item_bytes: int) -> int:
        """The rank that writes this part. Parts are to be asked for in the same order on every rank."""
        if self._num_ranks == 1:
            return 0
        owner = min(self._holders(rule, tp_rank), key=lambda rank: self._num_bytes[rank])
        self._num_bytes[owner] += math.prod(box.shape) * item_bytes
        return owner

    def _holders(self, rule: TensorRule, tp_rank: int) -> list[int]:
        first = self._stage(rule) * self._ranks_of_stage
        return [first + place for place in range(self._ranks_of_stage) if self._holds(rule, tp_rank, place)]

    def _stage(self, rule: TensorRule) -> int:
        layer = layer_of(rule.megatron_name)
        if layer is not None:
            return self._stage_of[layer]
        return 0 if rule.megatron_name.startswith(_BEFORE_LAYERS) else self._layout.pipeline - 1

    def _holds(self, rule: TensorRule, tp_rank: int, place: int) -> bool:
        """Whether the rank at that place in its stage holds the part of that tensor-parallel rank."""
        if rule.expert is None:
            return rule.tp_dim is None or place % self._layout.tensor == tp_rank
        group, slice_rank = divmod(place, self._layout.tensor_of_experts)
        is_its_expert = group % self._layout.expert == rule.expert // self._experts_of_rank
        return is_its_expert and slice_rank == tp_rank
