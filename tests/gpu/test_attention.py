"""Attention kernels on packed rows, against each other and against float64."""

import pytest
import torch

from rl_train.megatron.kernels.attention import AttentionKernel, HeadShape, choose_attention, differences

pytestmark = pytest.mark.gpu
SHAPE = HeadShape(num_heads=8, num_groups=2, dim=128)


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row, scale: float) -> torch.Tensor:
    lengths = row.cu_seqlens_q.diff().tolist()
    parts = []
    for q, k, v in zip(*(one.double().split(lengths) for one in (query, key, value)), strict=True):
        k, v = (one.repeat_interleave(q.shape[1] // k.shape[1], 1) for one in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        mask = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(mask, -torch.inf).softmax(-1), v))
    return torch.cat(parts).to(query.dtype)


@pytest.mark.parametrize("backend", ["flash", "auto"])
def test_the_kernel_of_a_backend_is_causal_attention_within_each_sequence(backend: str) -> None:
    from megatron.core.transformer.enums import AttnBackend

    kernel = choose_attention(AttnBackend[backend], SHAPE, torch.bfloat16)
    errors = differences(kernel, AttentionKernel("exact", exact), SHAPE, torch.bfloat16)
    # bfloat16 keeps 8 bits, of results and of the probabilities within the kernel.
    assert max(errors) < 6e-3, (kernel.name, errors)
