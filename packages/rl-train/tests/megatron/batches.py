"""A batch of the same samples, however it is split."""

import numpy as np

from rl_data import Microbatch, TrainBatch

LENGTHS = (5, 17, 32, 9, 2, 40, 24, 30, 30, 4, 1, 12)


def make_batch(
    vocab_size: int,
    *,
    num_ranks: int,
    num_microbatches: int,
    pad_to_multiple: int = 1,
    scale: float = 1.0,
    lengths: tuple[int, ...] = LENGTHS,
) -> TrainBatch:
    """By default 12 samples of 1 to 40 tokens over `num_ranks` x `num_microbatches` rows, in their order.

    All tokens after a sample's first two are trained, with advantages of both signs; `scale` multiplies the weights.
    """
    rng = np.random.default_rng(0)
    samples = [rng.integers(0, vocab_size, length) for length in lengths]
    advantages = rng.normal(size=len(samples))
    num_loss_tokens = sum(max(0, length - 2) for length in lengths)
    rows = np.array_split(np.arange(len(samples)), num_ranks * num_microbatches)
    microbatches = [
        _row([samples[i] for i in row], [advantages[i] for i in row], scale / num_loss_tokens, pad_to_multiple)
        for row in rows
    ]
    return TrainBatch(
        microbatches=tuple(
            tuple(microbatches[rank * num_microbatches : (rank + 1) * num_microbatches]) for rank in range(num_ranks)
        ),
        num_samples=len(samples),
        num_loss_tokens=num_loss_tokens,
        num_tokens=sum(lengths),
    )


def _row(samples: list, advantages: list, weight: float, pad_to_multiple: int) -> Microbatch:
    padding = -sum(map(len, samples)) % pad_to_multiple
    sequences = [*samples, np.zeros(padding, dtype=np.int64)] if padding else samples
    position_ids = np.concatenate([np.arange(len(one)) for one in sequences])
    is_trained = np.concatenate([np.arange(len(one)) >= 2 for one in samples] + [np.zeros(padding, dtype=bool)])
    per_token = np.concatenate(
        [np.full(len(one), advantage) for one, advantage in zip(samples, advantages, strict=True)] + [np.zeros(padding)]
    )
    return Microbatch(
        tokens=np.concatenate(sequences),
        position_ids=position_ids,
        cu_seqlens=np.cumsum([0, *map(len, sequences)]).astype(np.int32),
        loss_weights=np.where(is_trained, weight, 0).astype(np.float32),
        advantages=np.where(is_trained, per_token, 0).astype(np.float32),
        rollout_logprobs=np.where(is_trained, -4.6, 0).astype(np.float32),
    )
