"""Log-probabilities and entropy from hidden states, without the [tokens, vocabulary] matrix.

N = tokens, C = tokens of a chunk, H = hidden size, V = vocabulary entries that this rank holds.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from rl_train.megatron.kernels import PLAIN, Kernels
from rl_train.megatron.kernels.plain import RowGradients

_NEVER_TARGET = -1


class TokenLogprobs(NamedTuple):
    """What the distribution over the vocabulary says of each token."""

    logprobs: Tensor
    """[N] float32 log-probability of the target."""
    entropy: Tensor
    """[N] float32 in nats; zeros without gradient where it was not asked for."""


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    needs_entropy: bool,
    chunk_size: int,
    vocab_start: int = 0,
    num_rows: int | None = None,
    group: dist.ProcessGroup | None = None,
    gradient_sum: Tensor | None = None,
    known_gradient: Tensor | None = None,
    kernels: Kernels = PLAIN,
) -> TokenLogprobs:
    """Log-softmax of `hidden @ weight.T / temperature` at the targets, in float32.

    Chunk by chunk, forward and backward, so that at most [chunk_size, V] logits exist; the backward computes them a
    second time, unless the gradient of the log-probabilities is known before. The vocabulary may be split over
    tensor-parallel ranks, of which each must call with the same `hidden` and `targets`; each gets the same result and
    in the backward its own share of the gradient of `hidden`, to be summed over the ranks by the caller (the backward
    of Megatron's gather and copy into the parallel region does).

    Args:
        hidden: [N, H] after the final norm.
        weight: rows of the output layer on this rank, of which the first V stand for real vocabulary entries.
        targets: [N] int64 global token ids.
        temperature: logits are divided by it.
        needs_entropy: whether to compute the entropy and its gradient.
        chunk_size: C.
        vocab_start: global id of the first row of `weight`.
        num_rows: V; None: all rows.
        group: the tensor-parallel ranks; None or a group of one where the vocabulary is whole.
        gradient_sum: in the shape of `weight`, float32. The gradient of `weight` is added to it and does not go
            through autograd, which would hold it a second time. None: autograd gets it.
        known_gradient: [N] float32, what the backward pass will be given for the log-probabilities. All gradients are
            then computed forward, while the logits are there. Needs `gradient_sum`, and no entropy.
        kernels: what the passes over the logits are computed with.
    """
    assert known_gradient is None or (gradient_sum is not None and not needs_entropy)
    settings = _Settings(
        temperature=temperature,
        needs_entropy=needs_entropy,
        chunk_size=chunk_size,
        num_rows=weight.shape[0] if num_rows is None else num_rows,
        group=group if group is not None and dist.get_world_size(group) > 1 else None,
        gradient_sum=gradient_sum,
        known_gradient=known_gradient if torch.is_grad_enabled() else None,
        kernels=kernels,
    )
    local = _local_targets(targets, vocab_start, settings.num_rows)
    return TokenLogprobs(*_TokenLogprobs.apply(hidden, weight, local, settings))  # pyright: ignore[reportUnknownMemberType]


class _Settings(NamedTuple):
    temperature: float
    needs_entropy: bool
    chunk_size: int
    num_rows: int
    group: dist.ProcessGroup | None
    gradient_sum: Tensor | None
    known_gradient: Tensor | None
    kernels: Kernels

    def chunks(self, num_tokens: int) -> list[slice]:
        return [slice(start, start + self.chunk_size) for start in range(0, num_tokens, self.chunk_size)]


class _TokenLogprobs(torch.autograd.Function):
    """The gradient of the logits is `kernels.plain.logit_gradient`'s."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, local: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
        rows = weight[: settings.num_rows]
        logprobs = hidden.new_zeros(hidden.shape[0], dtype=torch.float32)
        entropy, log_norm = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
        known = settings.known_gradient
        grad_hidden = None if known is None else torch.empty_like(hidden)
        for part in settings.chunks(hidden.shape[0]):
            logits = hidden[part] @ rows.t()
            log_norm[part], target, mean_logit = _over_all_ranks(logits, local[part], settings)
            logprobs[part] = target - log_norm[part]
            if settings.needs_entropy:
                entropy[part] = log_norm[part] - mean_logit
            if known is not None and grad_hidden is not None and settings.gradient_sum is not None:
                gradients = RowGradients(local[part], log_norm[part], known[part], None, None)
                total = settings.gradient_sum
                grad_hidden[part] = _backward(logits, hidden[part], rows, gradients, total, settings)
            del logits  # before the next chunk's are made
        ctx.save_for_backward(hidden, weight, local, log_norm, entropy, grad_hidden)
        ctx.settings = settings
        if not settings.needs_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, local, log_norm, entropy, grad_hidden = ctx.saved_tensors
        settings: _Settings = ctx.settings
        if grad_hidden is not None:
            return grad_hidden, None, None, None
        rows = weight[: settings.num_rows]
        grad_hidden = torch.empty_like(hidden)
        total = settings.gradient_sum
        if total is None:
            # Summed in float32 over the chunks, whatever the type of the weight.
            total = torch.zeros_like(weight, dtype=torch.float32)
        for part in settings.chunks(hidden.shape[0]):
            logits = hidden[part] @ rows.t()
            gradients = RowGradients(
                targets=local[part],
                log_norm=log_norm[part],
                grad_logprobs=grad_logprobs[part].contiguous(),
                entropy=entropy[part] if settings.needs_entropy else None,
                grad_entropy=grad_entropy[part].contiguous() if settings.needs_entropy else None,
            )
            grad_hidden[part] = _backward(logits, hidden[part], rows, gradients, total, settings)
            del logits  # before the next chunk's are made
        grad_weight = None if settings.gradient_sum is not None else total.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def _backward(
    logits: Tensor, hidden: Tensor, rows: Tensor, gradients: RowGradients, total: Tensor, settings: _Settings
) -> Tensor:
    """[C, H] gradient of the chunk's hidden states; that of the rows is added to the first rows of `total`."""
    grad_logits = settings.kernels.logit_gradient(logits, gradients, settings.temperature)
    settings.kernels.add_product(total[: settings.num_rows], grad_logits, hidden)
    return grad_logits @ rows


def _local_targets(targets: Tensor, vocab_start: int, num_rows: int) -> Tensor:
    """[N] row of each target on this rank, _NEVER_TARGET where another rank has it."""
    rows = targets - vocab_start
    return torch.where((rows >= 0) & (rows < num_rows), rows, _NEVER_TARGET)


def _over_all_ranks(logits: Tensor, local: Tensor, settings: _Settings) -> tuple[Tensor, Tensor, Tensor]:
    """[C] each: log-sum-exp, the target's logit, and the mean logit under the distribution if it is needed."""
    own = settings.kernels.row_statistics(logits, local, settings.temperature, needs_entropy=settings.needs_entropy)
    largest, sums = own.largest, torch.stack((own.total, own.weighted, own.target))
    if settings.group is not None:
        largest = largest.clone()
        _all_reduce(largest, dist.ReduceOp.MAX, settings.group)
        sums[:2] *= (own.largest - largest).exp()
        _all_reduce(sums, dist.ReduceOp.SUM, settings.group)
    total, weighted, target = sums
    return largest + total.log(), target, weighted / total


def _all_reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> None:
    dist.all_reduce(tensor, op=op, group=group)  # pyright: ignore[reportUnknownMemberType]  torch leaves `group` open
