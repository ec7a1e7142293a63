"""The pieces in plain torch: for CPUs, and the reference for the fused ones. Shapes as in the package's docstring."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Statistics(NamedTuple):
    """Of one row of logits over the temperature, z: [C] float32 each."""

    largest: Tensor
    total: Tensor
    """Sum of exp(z - largest)."""
    target: Tensor
    """z of the target; 0 where another rank has it."""
    weighted: Tensor
    """Sum of exp(z - largest) z; zeros where no entropy is needed."""


class RowGradients(NamedTuple):
    """What the gradient of a row of logits is made of: [C] each, float32 but for the targets."""

    targets: Tensor
    """Row of the target among this rank's; -1 where another rank has it."""
    log_norm: Tensor
    """log sum exp over the whole vocabulary."""
    grad_logprobs: Tensor
    entropy: Tensor | None
    """None where the loss does not use it."""
    grad_entropy: Tensor | None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def rms_norm_and_input(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm(x)` and x, for the residual stream: the gradients of both uses of x are added in one pass."""
    return rms_norm(x, weight, eps), x


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(`rms_norm(residual + x)`, residual + x); the norm reads the sum before it is rounded, as SGLang's kernel does.

    Source: FusedAddRMSNormKernel of flashinfer's norm.cuh.
    """
    total = _at_least_float32(residual) + _at_least_float32(x)
    return rms_norm(total, weight.to(total.dtype), eps).to(x.dtype), total.to(x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) x up. Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def query_key_value(
    mixed: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys are rounded after the norm and after the rotation, as two separate kernels would round them."""
    num_tokens, num_groups, per_group, dim = mixed.shape
    query, key, value = torch.split(mixed, [per_group - 2, 1, 1], dim=2)
    query = query.reshape(num_tokens, num_groups * (per_group - 2), dim)
    key, value = key.squeeze(2), value.squeeze(2)
    query, key = rms_norm(query, query_weight, eps), rms_norm(key, key_weight, eps)
    return _rotate(query, cos, sin), _rotate(key, cos, sin), value


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, D] with the rotary embedding in the half-split form of Hugging Face's and Megatron's models.

    Source: Su et al. 2021, "RoFormer", arXiv:2104.09864, equation 34.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def row_statistics(logits: Tensor, targets: Tensor, temperature: float, *, needs_entropy: bool) -> Statistics:
    """Largest logit, sum of exponentials, target's logit and, if needed, the sum for the mean logit."""
    scaled = logits.float() / temperature
    chosen = scaled.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    target = torch.where(targets < 0, torch.zeros_like(chosen), chosen)
    largest = scaled.max(-1).values
    exponentials = (scaled - largest[:, None]).exp_()
    weighted = (exponentials * scaled).sum(-1) if needs_entropy else torch.zeros_like(largest)
    return Statistics(largest, exponentials.sum(-1), target, weighted)


def logit_gradient(logits: Tensor, rows: RowGradients, temperature: float) -> Tensor:
    """With z the logits over temperature, p = softmax(z), entropy E = log sum exp z - sum p z:

    d logprob / d z_j = [j is target] - p_j;   d E / d z_j = -p_j (log p_j + E).
    """
    log_p = (logits.float() / temperature).sub_(rows.log_norm[:, None])
    p = log_p.exp()
    if rows.entropy is not None and rows.grad_entropy is not None:
        factor = log_p.add_(rows.entropy[:, None]).mul_(rows.grad_entropy[:, None]).add_(rows.grad_logprobs[:, None])
        gradient = factor.mul_(p).neg_()
    else:
        gradient = p.mul_(rows.grad_logprobs[:, None]).neg_()
    at_target = torch.where(rows.targets < 0, torch.zeros_like(rows.grad_logprobs), rows.grad_logprobs)
    gradient.scatter_add_(1, rows.targets.clamp(min=0)[:, None], at_target[:, None])
    return gradient.div_(temperature).to(logits.dtype)


def add_product(sum_: Tensor, a: Tensor, b: Tensor, *, is_first: bool = False) -> None:
    """sum += a.T @ b, or sum = a.T @ b."""
    if is_first:
        sum_.copy_(a.t() @ b)
    else:
        sum_.add_(a.t() @ b)
