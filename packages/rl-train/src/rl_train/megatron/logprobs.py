"""Log-probabilities and entropy from hidden states, without the [tokens, vocabulary] matrix.

N = tokens, C = tokens of a chunk, H = hidden size, V = vocabulary entries that this rank holds.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

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
    vocab_start: int,
    group: dist.ProcessGroup | None,
) -> TokenLogprobs:
    """Log-softmax of `hidden @ weight.T / temperature` at the targets, in float32.

    Chunk by chunk, forward and backward, so that at most [chunk_size, V] logits exist; the backward computes them a
    second time. The vocabulary may be split over tensor-parallel ranks, of which each must call with the same `hidden`
    and `targets`; each gets the same result and in the backward its own share of the gradient of `hidden`, to be
    summed over the ranks by the caller (the backward of Megatron's gather and copy into the parallel region does).

    Args:
        hidden: [N, H] after the final norm.
        weight: [V, H] rows of the output layer that are on this rank and stand for real vocabulary entries.
        targets: [N] int64 global token ids.
        temperature: logits are divided by it.
        needs_entropy: whether to compute the entropy and its gradient.
        chunk_size: C.
        vocab_start: global id of the first row of `weight`.
        group: the tensor-parallel ranks; None or a group of one where the vocabulary is whole.
    """
    split = group if group is not None and dist.get_world_size(group) > 1 else None
    arguments = (hidden, weight, targets, temperature, needs_entropy, chunk_size, vocab_start, split)
    return TokenLogprobs(*_TokenLogprobs.apply(*arguments))  # type: ignore[no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    """With z the logits over temperature, p = softmax(z), entropy E = log sum exp z - sum p z:

    d logprob / d z_j = [j is target] - p_j;   d E / d z_j = -p_j (log p_j + E).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        needs_entropy: bool,
        chunk_size: int,
        vocab_start: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        local = _local_targets(targets, vocab_start, weight.shape[0])
        logprobs = hidden.new_zeros(hidden.shape[0], dtype=torch.float32)
        entropy, log_norm = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
        for start in range(0, hidden.shape[0], chunk_size):
            part = slice(start, start + chunk_size)
            logits = _logits(hidden[part], weight, temperature)
            log_norm[part] = _log_sum_exp(logits, group)
            target_logits = _target_logits(logits, local[part])
            _all_reduce(target_logits, dist.ReduceOp.SUM, group)
            logprobs[part] = target_logits - log_norm[part]
            if needs_entropy:
                mean_logit = (logits * (logits - log_norm[part, None]).exp_()).sum(-1)
                _all_reduce(mean_logit, dist.ReduceOp.SUM, group)
                entropy[part] = log_norm[part] - mean_logit
        ctx.save_for_backward(hidden, weight, local, log_norm, entropy)
        ctx.settings = (temperature, needs_entropy, chunk_size)
        if not needs_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, local, log_norm, entropy = ctx.saved_tensors
        temperature, needs_entropy, chunk_size = ctx.settings
        grad_hidden = torch.zeros_like(hidden)
        # Summed in float32 over the chunks, whatever the type of the weight.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], chunk_size):
            part = slice(start, start + chunk_size)
            log_p = _logits(hidden[part], weight, temperature).sub_(log_norm[part, None])
            p = log_p.exp()
            if needs_entropy:
                log_p.add_(entropy[part, None]).mul_(grad_entropy[part, None]).add_(grad_logprobs[part, None])
                grad_logits = log_p.mul_(p).neg_()
            else:
                grad_logits = p.mul_(grad_logprobs[part, None]).neg_()
            is_here = local[part] != _NEVER_TARGET
            rows = is_here.nonzero().squeeze(1)
            grad_logits[rows, local[part][rows]] += grad_logprobs[part][rows]
            grad_logits = grad_logits.div_(temperature).to(weight.dtype)
            grad_hidden[part] = grad_logits @ weight
            grad_weight += grad_logits.t() @ hidden[part]
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """[C, V] float32."""
    return (hidden @ weight.t()).float().div_(temperature)


def _local_targets(targets: Tensor, vocab_start: int, num_rows: int) -> Tensor:
    """[N] row of each target on this rank, _NEVER_TARGET where another rank has it."""
    rows = targets - vocab_start
    return torch.where((rows >= 0) & (rows < num_rows), rows, _NEVER_TARGET)


def _target_logits(logits: Tensor, local: Tensor) -> Tensor:
    """[C] logit of the target, 0 where another rank has it."""
    chosen = logits.gather(1, local.clamp(min=0)[:, None]).squeeze(1)
    return torch.where(local == _NEVER_TARGET, torch.zeros_like(chosen), chosen)


def _log_sum_exp(logits: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[C] over the whole vocabulary."""
    largest = logits.max(-1).values
    _all_reduce(largest, dist.ReduceOp.MAX, group)
    total = (logits - largest[:, None]).exp_().sum(-1)
    _all_reduce(total, dist.ReduceOp.SUM, group)
    return largest + total.log_()


def _all_reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> None:
    if group is not None:
        dist.all_reduce(tensor, op=op, group=group)  # pyright: ignore[reportUnknownMemberType]  torch leaves `group` open
