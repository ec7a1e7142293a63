"""Weight gradients added to Megatron's float32 buffer by the matrix product that computes them.

Megatron 0.19 calls an extension of APEX for it, by name. torch's own product can add to a float32 sum as well, so it
takes the extension's place. Goes when Megatron's linear layers ask torch (`addmm` with `out_dtype`) themselves.

The first product of a step does not add but sets, so that most of the buffer, 4 bytes for each parameter, need not be
filled with zeros before.
"""

# pyright: standard
# Megatron-Core is annotated in part only.

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import layers
from torch import Tensor

from rl_train.megatron.kernels import Kernels


class _WeightGradientKernels:
    """The one function of the extension that float32 buffers need."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._unset: dict[int, Tensor] = {}
        """Address -> gradient that the step's first product will set."""

    def wgrad_gemm_accum_fp32(self, inputs: Tensor, grad_output: Tensor, main_grad: Tensor) -> None:
        """main_grad [out, in] += grad_output [T, out].T @ inputs [T, in]."""
        is_first = self._unset.pop(main_grad.data_ptr(), None) is not None
        self._kernels.add_product(main_grad, grad_output, inputs, is_first=is_first)

    def leave_unset(self, gradients: list[Tensor]) -> None:
        """The next product of each is its first."""
        self._unset = {gradient.data_ptr(): gradient for gradient in gradients}

    def settle(self) -> None:
        """A gradient without a product in this step is 0."""
        for gradient in self._unset.values():
            gradient.zero_()
        self._unset = {}


def provide_weight_gradient_kernels(kernels: Kernels) -> None:
    """Lets Megatron's linear layers take `gradient_accumulation_fusion` in this process."""
    module: Any = layers
    module.fused_weight_gradient_mlp_cuda = _WeightGradientKernels(kernels)
    module._grad_accum_fusion_available = True


def begin_gradients(model: DistributedDataParallel, module: GPTModel) -> None:
    """Makes the gradients ready for a step; `settle_gradients` comes after its backward passes.

    Args:
        model: whose buffers Megatron would fill with zeros.
        module: the model under its wrappers.
    """
    kernels = _provided(module)
    if kernels is None:
        model.zero_grad_buffer()
        return
    # The output layer's gradient is the loss's to add up, and the embedding's Megatron's.
    linear = (layers.ColumnParallelLinear, layers.RowParallelLinear)
    weights: list[Any] = [part.weight for part in module.decoder.modules() if isinstance(part, linear)]
    unset = [weight.main_grad for weight in weights if weight.main_grad.dtype == torch.float32]
    addresses = {gradient.data_ptr() for gradient in unset}
    parameters: list[Any] = model.params_with_grad
    others = [one.main_grad for one in parameters if one.main_grad.data_ptr() not in addresses]
    # What zero_grad_buffer does beside filling the buffers.
    for parameter in parameters:
        parameter.grad_added_to_main_grad = False
    for group in model.bucket_groups:
        group.reset()
    torch._foreach_zero_(others)  # pyright: ignore[reportPrivateImportUsage]
    kernels.leave_unset(unset)


def settle_gradients(module: GPTModel) -> None:
    """Every gradient that `begin_gradients` left unset has a value."""
    kernels = _provided(module)
    if kernels is not None:
        kernels.settle()


def _provided(module: GPTModel) -> _WeightGradientKernels | None:
    """What this model's linear layers call, if they do."""
    found: Any = layers
    return found.fused_weight_gradient_mlp_cuda if module.config.gradient_accumulation_fusion else None
