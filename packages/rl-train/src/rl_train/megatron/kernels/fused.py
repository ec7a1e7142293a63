"""The pieces as Triton kernels, and matrix products that add in float32."""

import torch
from torch import Tensor

from rl_train.megatron.kernels import Kernels, plain
from rl_train.megatron.kernels.triton_adam import FusedAdamW
from rl_train.megatron.kernels.triton_loss import logit_gradient, row_statistics
from rl_train.megatron.kernels.triton_norm import add_rms_norm, rms_norm, rms_norm_and_input
from rl_train.megatron.kernels.triton_query_key_value import query_key_value
from rl_train.megatron.kernels.triton_swiglu import swiglu


def add_product(sum_: Tensor, a: Tensor, b: Tensor, *, is_first: bool = False) -> None:
    """sum += a.T @ b, or sum = a.T @ b, in one matrix product, with no temporary in the size of the sum."""
    beta = 0 if is_first else 1  # with 0 the sum is not read
    if sum_.dtype == a.dtype:
        torch.addmm(sum_, a.t(), b, beta=beta, out=sum_)
    elif a.is_cuda:
        torch.addmm(sum_, a.t(), b, out_dtype=sum_.dtype, beta=beta, out=sum_)
    else:
        plain.add_product(sum_, a, b, is_first=is_first)


FUSED = Kernels(
    name="fused",
    rms_norm=rms_norm,
    rms_norm_and_input=rms_norm_and_input,
    add_rms_norm=add_rms_norm,
    swiglu=swiglu,
    query_key_value=query_key_value,
    row_statistics=row_statistics,
    logit_gradient=logit_gradient,
    add_product=add_product,
    adam=FusedAdamW,
)
