"""Mistral: the tensors of Llama; the sliding window of its attention changes none."""

from collections.abc import Iterator

from rl_weights.rules.llama import llama
from rl_weights.rules.model_shape import ModelShape
from rl_weights.rules.rule import TensorRule


def mistral(shape: ModelShape) -> Iterator[TensorRule]:
    """The table of `MistralForCausalLM`."""
    return llama(shape)
