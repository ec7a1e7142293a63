"""Weight gradients added to Megatron's float32 buffer by the matrix product that computes them.

Megatron 0.19 calls an extension of APEX for it, by name. torch's own product can add to a float32 sum as well, so it
takes the extension's place. Goes when Megatron's linear layers ask torch (`addmm` with `out_dtype`) themselves.
"""

# pyright: standard
# Megatron-Core is annotated in part only.

from typing import Any

from megatron.core.tensor_parallel import layers
from torch import Tensor

from rl_train.megatron.kernels import Kernels


class _WeightGradientKernels:
    """The one function of the extension that float32 buffers need."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def wgrad_gemm_accum_fp32(self, inputs: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
        """main_grad [out, in] += grad_output [T, out].T @ inputs [T, in]."""
        self._kernels.add_product(main_grad, grad_output, inputs)


def provide_weight_gradient_kernels(kernels: Kernels) -> None:
    """Lets Megatron's linear layers take `gradient_accumulation_fusion` in this process."""
    module: Any = layers
    module.fused_weight_gradient_mlp_cuda = _WeightGradientKernels(kernels)
    module._grad_accum_fusion_available = True
