"""The fused kernels, compiled, against float64, at the shape of a Qwen3-4B layer."""

import pytest
import torch

from rl_train.megatron.kernels import choose_kernels
from rl_train.megatron.kernels.conformance import Sizes, differences

pytestmark = pytest.mark.gpu

QWEN3_4B = Sizes(tokens=300, hidden=2560, feed_forward=9728, groups=8, queries=4, head_dim=128, vocab=151936)
# float32 keeps 24 bits, of which sums of 300 products lose one or two, and bfloat16 keeps 8.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 6e-3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [None, QWEN3_4B], ids=["odd", "qwen3-4b"])
def test_fused_kernels_compute_their_formulas(sizes: Sizes | None, dtype: torch.dtype) -> None:
    for name, difference in differences(choose_kernels("fused"), "cuda", dtype, sizes).items():
        assert difference < TOLERANCES[dtype], (name, difference)
