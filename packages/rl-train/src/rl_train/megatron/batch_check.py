"""Whether a batch fits a trainer, which every rank can say of the whole batch.

If each rank looked at its own part alone, the others would wait in a collective for the one that refuses. Importing
this imports nothing heavy.
"""

import numpy as np

from rl_data import Microbatch, TrainBatch
from rl_train.errors import TrainConfigError


def check_batch(
    batch: TrainBatch, *, num_ranks: int, pad_to_multiple: int, vocab_size: int, is_trained: bool = False
) -> None:
    """Accepts the batch, or says what is wrong with it.

    Args:
        batch: of all data-parallel ranks.
        num_ranks: data-parallel ranks of the trainer.
        pad_to_multiple: what the tokens of every micro-batch must be a multiple of.
        vocab_size: of the model, without padding.
        is_trained: whether its loss weights are used.

    Raises:
        TrainConfigError: naming the data-parallel rank and the micro-batch.
    """
    if len(batch.microbatches) != num_ranks:
        raise TrainConfigError(
            f"train batch: expected micro-batches for {num_ranks} data-parallel ranks, got {len(batch.microbatches)}"
        )
    for rank, own in enumerate(batch.microbatches):
        for number, microbatch in enumerate(own):
            problem = _problem(microbatch, pad_to_multiple, vocab_size, is_trained=is_trained)
            if problem is not None:
                raise TrainConfigError(f"train batch: micro-batch {number} of data-parallel rank {rank}: {problem}")


def _problem(microbatch: Microbatch, pad_to_multiple: int, vocab_size: int, *, is_trained: bool) -> str | None:
    if microbatch.num_tokens % pad_to_multiple:
        return (
            f"expected a multiple of {pad_to_multiple} tokens (pad_to_multiple), because of sequence parallelism; "
            f"got {microbatch.num_tokens}"
        )
    lowest, highest = int(microbatch.tokens.min()), int(microbatch.tokens.max())
    if lowest < 0 or highest >= vocab_size:
        return f"expected token ids from 0 to {vocab_size - 1}, got {lowest} to {highest}"
    starts = microbatch.cu_seqlens[:-1]
    if is_trained and np.any(microbatch.loss_weights[starts]):
        first = int(starts[np.flatnonzero(microbatch.loss_weights[starts])[0]])
        return f"token {first} begins its sequence and cannot be trained: nothing predicts it"
    return None
