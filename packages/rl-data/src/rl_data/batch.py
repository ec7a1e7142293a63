"""What a trainer takes: packed micro-batches.

T = tokens of a micro-batch (padding included), S = sequences in it, R = data-parallel ranks, M = micro-batches a rank.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Microbatch:
    """Several sequences laid end to end. Array position t speaks of token t of the packed row.

    Padding, where there is any, is a last sequence of its own whose loss weights are 0.

    Raises:
        ValueError: if shapes differ or cu_seqlens does not run from 0 to T.
    """

    tokens: NDArray[np.int64]
    """[T] token ids."""
    position_ids: NDArray[np.int64]
    """[T] position of the token in its own sequence."""
    cu_seqlens: NDArray[np.int32]
    """[S+1] where each sequence begins, and T at the end."""
    loss_weights: NDArray[np.float32]
    """[T] factor of the token's loss in the step's loss; 0 where the token is not trained.

    The step's loss is the plain sum of weight x token loss over every micro-batch of every rank,
    so the denominators are in here and the sum does not depend on how samples were split.
    """
    advantages: NDArray[np.float32]
    """[T] advantage of the token; 0 where the token is not trained, all 0 for supervised data."""
    rollout_logprobs: NDArray[np.float32]
    """[T] log-probability under the policy that drew the token; 0 where the token is not trained."""
    old_logprobs: NDArray[np.float32] | None = None
    """[T] under the trainer's weights before the first step on these samples; None: the present ones."""
    ref_logprobs: NDArray[np.float32] | None = None
    """[T] under the reference policy; None where no reference is used."""

    def __post_init__(self) -> None:
        num_tokens = len(self.tokens)
        for name in ("position_ids", "loss_weights", "advantages", "rollout_logprobs", "old_logprobs", "ref_logprobs"):
            array = getattr(self, name)
            if array is not None and array.shape != (num_tokens,):
                raise ValueError(f"micro-batch: expected {name} of shape ({num_tokens},), got {array.shape}")
        if self.cu_seqlens[0] != 0 or self.cu_seqlens[-1] != num_tokens or (np.diff(self.cu_seqlens) <= 0).any():
            raise ValueError(f"micro-batch: cu_seqlens {self.cu_seqlens.tolist()} does not rise from 0 to {num_tokens}")

    @property
    def num_tokens(self) -> int:
        """T, padding included."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """One optimizer step, split over the data-parallel ranks. `pack()` makes it.

    Raises:
        ValueError: if ranks have different numbers of micro-batches (their collectives would not match).
    """

    microbatches: tuple[tuple[Microbatch, ...], ...]
    """[R][M] micro-batches of each data-parallel rank."""
    num_samples: int
    num_loss_tokens: int
    """Trained tokens over all ranks."""
    num_tokens: int
    """Tokens over all ranks without padding."""

    def __post_init__(self) -> None:
        counts = {len(rank) for rank in self.microbatches}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"train batch: expected one number of micro-batches on every rank, got {sorted(counts)}")
