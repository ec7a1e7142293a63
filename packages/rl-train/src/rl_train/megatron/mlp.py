"""Megatron's SwiGLU block with our kernel for the activation."""

# pyright: standard
# Megatron-Core is annotated in part only.

from typing import Any

from megatron.core.transformer.mlp import MLP
from torch import Tensor

from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.saved import recomputable, saving_recipes


class SwiGLUMLP(MLP):
    """Parameters, sharding and checkpoint names are those of the base class.

    Args:
        settings: of all layers.
    """

    def __init__(self, *args: Any, settings: LayerSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, **unused: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[T, 1, hidden] in, [T, 1, hidden] and the bias that the caller has to add out."""
        given = [name for name, value in unused.items() if value is not None]
        assert not given, f"the block does not take {given}"
        swiglu = self._settings.kernels.swiglu
        first: Any = self.linear_fc1
        second: Any = self.linear_fc2
        with saving_recipes(hidden_states):
            gate_and_up, _ = first(hidden_states)
        product = swiglu(gate_and_up)
        if self._settings.recomputes_activations:
            recomputable(product, lambda: swiglu(gate_and_up))
        with saving_recipes(product):
            output, bias = second(product)
        return output, bias
