"""A second set of weights, of the reference policy, in host memory."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch

from rl_data.json import JsonValue
from rl_train.megatron.memory import HostCopy, storages_of
from rl_train.megatron.model import module_of
from rl_train.megatron.weights import load_weights


class ReferenceWeights:
    """This rank's part of the reference policy."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._storages = storages_of(model.parameters())
        self._own, self._reference = HostCopy("the trained policy"), HostCopy("the reference policy")

    @classmethod
    def load(cls, model: torch.nn.Module, weights: Path, model_config: Mapping[str, JsonValue]) -> Self:
        """Reads the weights through the model, which gets its own back. Collective.

        Raises:
            HostMemoryError: if the host has no room for both.
        """
        made = cls(model)
        made._own.save(made._storages)
        load_weights(module_of(model), weights, model_config)
        made._reference.save(made._storages)
        made._own.restore()
        return made

    @contextmanager
    def in_place(self) -> Generator[None]:
        """The model holds the reference's weights for the duration of the block, and then exactly its own."""
        self._own.save(self._storages)
        self._reference.restore()
        try:
            yield
        finally:
            self._own.restore()
