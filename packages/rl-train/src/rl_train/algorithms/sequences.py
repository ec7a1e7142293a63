"""Sums over the sequences of a packed row."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The sequences of a packed row and how many trained tokens each has. T = tokens, S = sequences."""

    index: Tensor
    """[T] int64: number of the sequence that the token belongs to."""
    num_trained: Tensor
    """[S] float: trained tokens of each sequence, at least 1 so that it can divide."""

    @classmethod
    def of(cls, cu_seqlens: Tensor, trained: Tensor, dtype: torch.dtype) -> Self:
        """From [S+1] int32 boundaries and a [T] bool mask, without waiting for the device."""
        positions = torch.arange(len(trained), device=trained.device)
        index = torch.bucketize(positions, cu_seqlens[1:].to(positions.dtype), right=True)
        counts = torch.zeros(len(cu_seqlens) - 1, dtype=dtype, device=trained.device)
        return cls(index, counts.index_add(0, index, trained.to(dtype)).clamp(min=1))

    def sum(self, values: Tensor) -> Tensor:
        """[T] sum of the token's sequence, at every one of its tokens; values must be 0 where untrained."""
        return self._totals(values)[self.index]

    def mean(self, values: Tensor) -> Tensor:
        """[T] mean over the trained tokens of the token's sequence; values must be 0 where untrained."""
        return (self._totals(values) / self.num_trained)[self.index]

    def _totals(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self.num_trained, dtype=values.dtype).index_add(0, self.index, values)
