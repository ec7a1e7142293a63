"""Names of files and tensors in Megatron's torch_dist checkpoints.

A checkpoint names a layer's tensors as Transformer Engine's layers do, whose norms are part of the projection behind
them, and stacks a tensor of all layers along a leading dimension under one key without the layer's number:
`decoder.layers.3.input_layernorm.weight` is row 3 of `decoder.layers.self_attention.linear_qkv.layer_norm_weight`.
Here and in the rest of this package such a row goes by its key with the number put back, its *stored name*:
`decoder.layers.3.self_attention.linear_qkv.layer_norm_weight`.

Source: megatron-core 0.19.2, `sharded_state_dict_keys_map` in core/models/gpt/gpt_layer_specs.py and
`sharded_state_dict` in core/transformer/transformer_block.py.
"""

import re
from pathlib import Path
from typing import NamedTuple

TRACKER_FILE = "latest_checkpointed_iteration.txt"
METADATA_FILE = ".metadata"
RELEASE = "release"
# What Megatron's training checkpoints hold beside the model.
_NOT_OF_THE_MODEL = ("optimizer.", "chained_", "rng_state", "rerun_state")
LAYERS = "decoder.layers."
_OF_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_RENAMED_PREFIXES = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


class Place(NamedTuple):
    """Where a tensor lies in a checkpoint."""

    key: str
    layer: int | None
    """Row along the leading dimension; None for a tensor outside of the layers."""


def is_torch_dist(path: Path) -> bool:
    """Whether the folder looks like checkpoints of Megatron, or like one of them."""
    return (path / TRACKER_FILE).is_file() or (path / METADATA_FILE).is_file()


def is_of_model(name: str) -> bool:
    """Whether a stored name is a weight, not a training checkpoint's optimizer or random state."""
    return not name.startswith(_NOT_OF_THE_MODEL)


def stored_name(megatron_name: str) -> str:
    """The stored name of a GPTModel parameter, given its name in the local layer specification."""
    match = _OF_LAYER.fullmatch(megatron_name)
    if match is None:
        return megatron_name
    rest = match[2]
    for ours, theirs in _RENAMED_PREFIXES.items():
        if rest.startswith(ours):
            rest = theirs + rest.removeprefix(ours)
    return f"{LAYERS}{match[1]}.{rest}"


def place_of(name: str) -> Place:
    """Key and row of a stored name."""
    match = _OF_LAYER.fullmatch(name)
    return Place(name, None) if match is None else Place(LAYERS + match[2], int(match[1]))


def name_of_row(key: str, layer: int) -> str:
    """The stored name of a row of a stacked key."""
    return f"{LAYERS}{layer}.{key.removeprefix(LAYERS)}"


def is_stacked(key: str) -> bool:
    """Whether the key stands for a tensor of every layer."""
    return key.startswith(LAYERS) and _OF_LAYER.fullmatch(key) is None


def extra_state_key(key: str, layer: int, num_layers: int) -> str | None:
    """Key of the empty object that Megatron keeps beside a projection's weight; None if `key` is no such weight."""
    module, _, parameter = key.rpartition(".")
    if parameter != "weight" or not module.rpartition(".")[2].startswith("linear_"):
        return None
    return f"{module}._extra_state/shard_{layer}_{num_layers}"
