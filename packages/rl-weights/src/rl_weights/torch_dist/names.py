"""Names of files and tensors in Megatron's torch_dist checkpoints.

A checkpoint names a layer's tensors as Transformer Engine's layers do, whose norms are part of the projection behind
them, and stacks a tensor of all layers along a leading dimension under one key without the layer's number:
`decoder.layers.3.input_layernorm.weight` is row 3 of `decoder.layers.self_attention.linear_qkv.layer_norm_weight`.
A tensor of all experts is stacked along the next dimension. Where only some layers have experts, each layer has keys of
its own. In this package a tensor goes by its key with all numbers put back, its *stored name*:
`decoder.layers.3.self_attention.linear_qkv.layer_norm_weight` or
`decoder.layers.3.mlp.experts.experts.7.linear_fc2.weight`.

Source: megatron-core 0.19.2, `sharded_state_dict_keys_map` in core/models/gpt/gpt_layer_specs.py, and
`sharded_state_dict` in core/transformer/transformer_block.py and core/transformer/moe/experts.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rl_weights.rules import TensorRule

TRACKER_FILE = "latest_checkpointed_iteration.txt"
METADATA_FILE = ".metadata"
RELEASE = "release"
# What Megatron's training checkpoints hold beside the model.
_NOT_OF_THE_MODEL = ("optimizer.", "chained_", "rng_state", "rerun_state")
LAYERS = "decoder.layers."
_OF_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERTS = ".mlp.experts.experts."
_OF_EXPERT = re.compile(
    r"(decoder\.layers\..*\.mlp\.experts\.experts\.|decoder\.layers\.mlp\.experts\.experts\.)(\d+)\.(.+)"
)

type TransformerImpl = Literal["transformer_engine", "local"]
"""Megatron's --transformer-impl. The two name the norm before the experts differently, and nothing else."""
_NORM_BEFORE_MLP = "pre_mlp_layernorm."
_FUSED_NORMS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    _NORM_BEFORE_MLP: "mlp.linear_fc1.layer_norm_",
}


class Place(NamedTuple):
    """Where a tensor lies in a checkpoint."""

    key: str
    rows: tuple[int, ...]
    """Its layer, its expert, or both, as indices of the leading dimensions; empty for a tensor with its own key."""


class StoredNames:
    """Where the tensors of one model lie in a checkpoint.

    Args:
        rules: of the model.
        transformer_impl: of the Megatron that is to load the checkpoint.
    """

    def __init__(
        self, rules: Sequence[TensorRule], *, transformer_impl: TransformerImpl = "transformer_engine"
    ) -> None:
        layers = {layer for rule in rules if (layer := layer_of(rule.megatron_name)) is not None}
        self._with_experts = {layer_of(rule.megatron_name) for rule in rules if rule.expert is not None}
        self.num_layers = len(layers)
        self.num_experts = 1 + max((rule.expert for rule in rules if rule.expert is not None), default=-1)
        self._is_stacked = self._with_experts in (set(), layers)
        self._norm_is_fused = transformer_impl == "local"

    def name(self, megatron_name: str) -> str:
        """The stored name of a GPTModel parameter, given its name in the local layer specification."""
        match = _OF_LAYER.fullmatch(megatron_name)
        if match is None:
            return megatron_name
        rest = match[2].replace(".local_experts.", ".experts.")
        has_own_norm = int(match[1]) in self._with_experts and not self._norm_is_fused
        for ours, theirs in _FUSED_NORMS.items():
            if rest.startswith(ours) and not (has_own_norm and ours == _NORM_BEFORE_MLP):
                rest = theirs + rest.removeprefix(ours)
        return f"{LAYERS}{match[1]}.{rest}"

    def place(self, name: str) -> Place:
        """Key and rows of a stored name."""
        key, rows = name, list[int]()
        if self._is_stacked and (match := _OF_LAYER.fullmatch(name)):
            key, rows = LAYERS + match[2], [int(match[1])]
        if match := _OF_EXPERT.fullmatch(key):
            key, rows = match[1] + match[3], [*rows, int(match[2])]
        return Place(key, tuple(rows))

    def row_sizes(self, place: Place) -> tuple[int, ...]:
        """Sizes of the leading dimensions of that key: of `place.rows`."""
        sizes = [self.num_layers] * _is_stacked(place.key) + [self.num_experts] * _is_of_experts(place.key)
        return tuple(sizes)


def is_torch_dist(path: Path) -> bool:
    """Whether the folder looks like checkpoints of Megatron, or like one of them."""
    return (path / TRACKER_FILE).is_file() or (path / METADATA_FILE).is_file()


def is_of_model(name: str) -> bool:
    """Whether a stored name is a weight, not a training checkpoint's optimizer or random state."""
    return not name.startswith(_NOT_OF_THE_MODEL)


def layer_of(name: str) -> int | None:
    """Number of the layer in the name of a parameter or a stored name; None outside of the layers."""
    match = _OF_LAYER.fullmatch(name)
    return None if match is None else int(match[1])


def expert_of(name: str) -> int | None:
    """Number of the expert in a stored name; None outside of the experts."""
    match = _OF_EXPERT.fullmatch(name)
    return None if match is None else int(match[2])


def num_row_dims(key: str) -> int:
    """Leading dimensions of that key that count layers and experts."""
    return _is_stacked(key) + _is_of_experts(key)


def name_of_row(key: str, rows: Sequence[int]) -> str:
    """The stored name of what lies at `rows`, `num_row_dims` of them, under a key."""
    numbers = list(rows)
    if _is_stacked(key):
        key = f"{LAYERS}{numbers.pop(0)}.{key.removeprefix(LAYERS)}"
    return key.replace(_EXPERTS, f"{_EXPERTS}{numbers[0]}.") if numbers else key


def extra_state_key(place: Place, row_sizes: Sequence[int]) -> str | None:
    """Key of the empty object that Megatron keeps beside a projection's weight; None beside any other tensor."""
    module, _, parameter = place.key.rpartition(".")
    if not module.startswith(LAYERS) or parameter != "weight" or not module.rpartition(".")[2].startswith("linear_"):
        return None
    rows, sizes = ".".join(map(str, place.rows or (0,))), ".".join(map(str, row_sizes or (1,)))
    return f"{module}._extra_state/shard_{rows}_{sizes}"


def _is_stacked(key: str) -> bool:
    return key.startswith(LAYERS) and _OF_LAYER.fullmatch(key) is None


def _is_of_experts(key: str) -> bool:
    return key.startswith(LAYERS) and _EXPERTS in key and _OF_EXPERT.fullmatch(key) is None
