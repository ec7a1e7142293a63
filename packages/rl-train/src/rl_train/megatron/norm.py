"""RMSNorm for Megatron's layers without Transformer Engine or APEX."""

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from rl_train.megatron.layer_settings import LayerSettings
from rl_train.megatron.saved import recomputable


class RMSNorm(torch.nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32 and rounded once.

    Megatron's own torch wrapper refuses sequence parallelism, because under it the weight's gradient must be summed
    over the tensor-parallel ranks; this module marks its weight for that sum.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, *, settings: LayerSettings
    ) -> None:
        super().__init__()
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]
        self.eps = eps
        self._settings = settings

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_size], in the type of `x`."""
        return self._with_recipe(self._settings.kernels.rms_norm(x, self.weight, self.eps), x)

    def beside_input(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of x, x), the latter for the residual stream."""
        output, x = self._settings.kernels.rms_norm_and_input(x, self.weight, self.eps)
        return self._with_recipe(output, x), x

    def after_adding(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of x and the residual stream; the norm reads the sum before it is rounded.

        Where the norm is computed again for the backward pass, it reads the rounded sum, which alone is kept: in half
        precision the gradient of the weight that it is multiplied with sees it moved by no more than its own rounding.
        """
        output, total = self._settings.kernels.add_rms_norm(x, residual, self.weight, self.eps)
        return self._with_recipe(output, total), total

    def _with_recipe(self, output: Tensor, x: Tensor) -> Tensor:
        if self._settings.recomputes_activations:
            rms_norm = self._settings.kernels.rms_norm
            recomputable(output, lambda: rms_norm(x, self.weight, self.eps))
        return output
