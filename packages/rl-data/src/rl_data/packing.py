"""Samples to micro-batches: the only way from `Sample` to `TrainBatch`.

Ranks get nearly equal work, micro-batches stay under a token budget, and every rank has the same number of them. Work
is the number of tokens or, where asked for, what attention costs too. `balance.py` says how.

N = samples, R = data-parallel ranks, M = micro-batches a rank, T = tokens of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_data.balance import even_out, first_fit, split_evenly
from rl_data.batch import Microbatch, TrainBatch
from rl_data.errors import DataError
from rl_data.sample import Sample

type LossReduction = Literal["token", "sample"]
"""How token losses are averaged over the step: over all trained tokens, or within each sample and then over samples."""


def pack(
    samples: Sequence[Sample],
    *,
    num_ranks: int,
    max_tokens: int,
    loss_reduction: LossReduction = "token",
    advantages: Sequence[float | NDArray[np.float32]] | None = None,
    pad_to_multiple: int = 1,
    attention_length: float | None = None,
) -> TrainBatch:
    """One optimizer step's batch.

    Args:
        samples: [N], each with at most `max_tokens` tokens.
        num_ranks: R.
        max_tokens: most tokens of a micro-batch, padding included.
        loss_reduction: what the loss weights average over; they sum to 1 over the whole batch either way. A sample
            without trained tokens counts for nothing.
        advantages: [N], for each sample one number or an array [tokens of the sample]; None: all 0, as for
            supervised data.
        pad_to_multiple: T is made a multiple of this by a padding sequence, as sequence parallelism asks for.
        attention_length: tokens of a sequence at which attention costs as much as all the rest of the model; ranks are
            balanced by length + length^2 / attention_length then. None: by tokens. `rl_data.balance` computes it.

    Returns:
        A batch in which every token of every sample stands once. A rank that gets fewer samples than there are
        micro-batches has some that hold padding alone.

    Raises:
        DataError: if there is nothing to train, a sample is longer than the budget, a sequence's first token is to be
            trained, lengths differ, or a number or name is none that is taken.
    """
    _check_numbers(num_ranks, pad_to_multiple, attention_length)
    budget = max_tokens // pad_to_multiple * pad_to_multiple
    lengths = [len(sample.tokens) for sample in samples]
    _check_samples(samples, lengths, budget)
    weights = _loss_weights(samples, loss_reduction)
    advantages_by_sample = _advantages(samples, advantages)

    work = [length + (length**2 / attention_length if attention_length else 0.0) for length in lengths]
    ranks = split_evenly(list(range(len(samples))), work, num_ranks)
    fitted = [first_fit(rank, lengths, budget) for rank in ranks]
    num_microbatches = max(1, *(len(parts) for parts in fitted))
    microbatches = tuple(
        tuple(
            _microbatch(samples, indices, weights, advantages_by_sample, pad_to_multiple)
            for indices in even_out(parts, lengths, work, num_microbatches, budget)
        )
        for parts in fitted
    )
    return TrainBatch(
        microbatches=microbatches,
        num_samples=len(samples),
        num_loss_tokens=sum(sample.num_loss_tokens for sample in samples),
        num_tokens=sum(lengths),
    )


def with_logprobs(
    batch: TrainBatch,
    *,
    old: Sequence[Sequence[NDArray[np.float32]]] | None = None,
    ref: Sequence[Sequence[NDArray[np.float32]]] | None = None,
) -> TrainBatch:
    """The batch with what `Trainer.compute_logprobs` gave: [R][M][T] under the old and the reference policy."""
    return replace(
        batch,
        microbatches=tuple(
            tuple(
                replace(
                    microbatch,
                    old_logprobs=microbatch.old_logprobs if old is None else old[rank][number],
                    ref_logprobs=microbatch.ref_logprobs if ref is None else ref[rank][number],
                )
                for number, microbatch in enumerate(microbatches)
            )
            for rank, microbatches in enumerate(batch.microbatches)
        ),
    )


def _check_numbers(num_ranks: int, pad_to_multiple: int, attention_length: float | None) -> None:
    if num_ranks < 1 or pad_to_multiple < 1:
        raise DataError(
            f"pack: expected num_ranks and pad_to_multiple of at least 1, got {num_ranks}, {pad_to_multiple}"
        )
    if attention_length is not None and not attention_length > 0:
        raise DataError(f"pack: expected attention_length above 0, got {attention_length}")


def _check_samples(samples: Sequence[Sample], lengths: Sequence[int], budget: int) -> None:
    if not any(sample.loss_mask.any() for sample in samples):
        raise DataError(f"pack: {len(samples)} samples without a token to train")
    for sample, length in zip(samples, lengths, strict=True):
        where = f"sample {sample.group_id}/{sample.index}"
        if length > budget:
            raise DataError(f"{where} has {length} tokens, more than the {budget} that a micro-batch may have")
        if length == 0:
            raise DataError(f"{where} has no tokens")
        if sample.loss_mask[0]:
            raise DataError(f"{where}: its first token is to be trained, but no token stands before it to predict it")


def _loss_weights(samples: Sequence[Sample], reduction: LossReduction) -> list[float]:
    """[N] weight of each trained token of a sample."""
    if reduction not in ("token", "sample"):
        raise DataError(f"pack: expected loss_reduction 'token' or 'sample', got {reduction!r}")
    counts = [sample.num_loss_tokens for sample in samples]
    if reduction == "token":
        return [1.0 / sum(counts)] * len(samples)
    num_trained = sum(count > 0 for count in counts)
    return [1.0 / (count * num_trained) if count else 0.0 for count in counts]


def _advantages(
    samples: Sequence[Sample], advantages: Sequence[float | NDArray[np.float32]] | None
) -> Sequence[float | NDArray[np.float32]]:
    if advantages is None:
        return [0.0] * len(samples)
    if len(advantages) != len(samples):
        raise DataError(f"pack: expected an advantage for each of {len(samples)} samples, got {len(advantages)}")
    for sample, advantage in zip(samples, advantages, strict=True):
        shape = np.shape(advantage)
        if shape not in ((), sample.tokens.shape):
            where = f"sample {sample.group_id}/{sample.index}"
            raise DataError(f"{where}: expected one advantage or {sample.tokens.shape}, got shape {shape}")
    return advantages


def _microbatch(
    samples: Sequence[Sample],
    indices: Sequence[int],
    weights: Sequence[float],
    advantages: Sequence[float | NDArray[np.float32]],
    pad_to_multiple: int,
) -> Microbatch:
    """The samples end to end, and padding as a last sequence where it is needed."""
    members = [samples[index] for index in indices]
    lengths = [len(sample.tokens) for sample in members]
    num_tokens = sum(lengths)
    num_padding = -num_tokens % pad_to_multiple if members else pad_to_multiple
    ends = [*lengths, num_padding] if num_padding else lengths
    total = num_tokens + num_padding
    tokens = np.zeros(total, dtype=np.int64)
    loss_weights = np.zeros(total, dtype=np.float32)
    token_advantages = np.zeros(total, dtype=np.float32)
    rollout_logprobs = np.zeros(total, dtype=np.float32)
    zero = np.float32(0)
    start = 0
    for index, sample in zip(indices, members, strict=True):
        stop = start + len(sample.tokens)
        tokens[start:stop] = sample.tokens
        loss_weights[start:stop] = sample.loss_mask * np.float32(weights[index])
        # Not by multiplication: what stands where nothing is trained may be no number.
        advantage = np.asarray(advantages[index], dtype=np.float32)
        token_advantages[start:stop] = np.where(sample.loss_mask, advantage, zero)
        rollout_logprobs[start:stop] = np.where(sample.loss_mask, sample.rollout_logprobs, zero)
        start = stop
    return Microbatch(
        tokens=tokens,
        position_ids=np.concatenate([np.arange(length, dtype=np.int64) for length in ends]),
        cu_seqlens=np.concatenate([[0], np.cumsum(ends)]).astype(np.int32),
        loss_weights=loss_weights,
        advantages=token_advantages,
        rollout_logprobs=rollout_logprobs,
    )
