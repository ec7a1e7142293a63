"""Where the sequences of a packed row lie. T = tokens of the row, S = its sequences, D = rotary dimensions."""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from rl_data import Microbatch


class DenseBatch(NamedTuple):
    """Sequences of similar length as a padded batch of B sequences of at most L tokens."""

    sources: Tensor
    """[B, L] row position of each token; the last token of a sequence is repeated as padding."""
    kept: Tensor
    """[N] positions in the flattened [B x L] batch that are not padding."""
    targets: Tensor
    """[N] row position of each kept token."""


class PackedSequences(PackedSeqParams):
    """Megatron's description of a packed row with what our attention needs beside it.

    What every layer needs alike (rotary tables, padded batches) is computed once for the row and kept.
    """

    position_ids: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, microbatch: Microbatch, device: torch.device) -> Self:
        """The description of a micro-batch's row, with its tensors on `device`."""
        boundaries = [int(start) for start in microbatch.cu_seqlens]
        lengths = tuple(stop - start for start, stop in pairwise(boundaries))
        cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=device)
        longest = max(lengths)
        row = cls(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )
        row.position_ids = torch.tensor(microbatch.position_ids, dtype=torch.int64, device=device)
        row.lengths = lengths
        row._rotary = None
        row._dense = None
        return row

    _rotary: tuple[Tensor, Tensor] | None
    _dense: tuple[DenseBatch, ...] | None

    def rotary(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, [T, D / 2] float32 each, of every token's position.

        Args:
            angles: [longest, 1, 1, D] float32, Megatron's table for positions from 0, whose two halves are the same.
        """
        if self._rotary is None:
            per_token = angles[:, 0, 0, : angles.shape[-1] // 2][self.position_ids]
            self._rotary = per_token.cos(), per_token.sin()
        return self._rotary

    def dense_batches(self) -> tuple[DenseBatch, ...]:
        """The row as padded batches, one for every power of two that a length rounds up to.

        So at most half of a batch is padding, whatever the lengths are.
        """
        if self._dense is None:
            buckets: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
            start = 0
            for length in self.lengths:
                buckets[(length - 1).bit_length()].append((start, length))
                start += length
            self._dense = tuple(_dense_batch(spans, self.position_ids.device) for _, spans in sorted(buckets.items()))
        return self._dense


def _dense_batch(spans: list[tuple[int, int]], device: torch.device) -> DenseBatch:
    starts, lengths = torch.tensor(spans).unbind(1)
    offsets = torch.arange(int(lengths.max()))
    sources = starts[:, None] + torch.minimum(offsets[None], lengths[:, None] - 1)
    kept = (offsets[None] < lengths[:, None]).flatten().nonzero().squeeze(1)
    return DenseBatch(*(one.to(device) for one in (sources, kept, sources.flatten()[kept])))
