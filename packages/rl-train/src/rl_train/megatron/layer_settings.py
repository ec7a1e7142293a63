"""What the modules of all layers share."""

from dataclasses import dataclass

from rl_train.megatron.kernels import Kernels


@dataclass(slots=True)
class LayerSettings:
    """Kernels, and whether what is quickly computed is kept for the backward pass.

    The one thing that is set after the model is built: how much memory activations may take is known at the first step.
    """

    kernels: Kernels
    recomputes_activations: bool = False
    """Outputs of norms, rotated queries and keys and the SwiGLU product are computed again in the backward pass."""
