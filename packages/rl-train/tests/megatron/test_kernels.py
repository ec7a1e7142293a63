"""Plain and fused kernels against float64. Without a GPU the fused ones run in Triton's interpreter."""

import json
import os
import subprocess
import sys

import pytest
import torch

from rl_train.megatron.kernels import PLAIN, choose_kernels
from rl_train.megatron.kernels.conformance import differences

FUSED = """
import json, sys, torch
from rl_train.megatron.kernels import choose_kernels
from rl_train.megatron.kernels.conformance import differences
fused = choose_kernels("fused")
print(json.dumps({str(dtype): differences(fused, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16)}))
"""
# float32 keeps 24 bits and bfloat16 keeps 8; a result is rounded once or twice, by cutting off in the interpreter.
TOLERANCES = {"torch.float32": 2e-6, "torch.bfloat16": 1.2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_kernels_compute_their_formulas(dtype: torch.dtype) -> None:
    for name, difference in differences(PLAIN, "cpu", dtype).items():
        assert difference < TOLERANCES[str(dtype)], (name, difference)


def test_fused_kernels_compute_the_same_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, "-c", FUSED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for dtype, all_differences in json.loads(done.stdout).items():
        for name, difference in all_differences.items():
            assert difference < TOLERANCES[dtype], (dtype, name, difference)


def test_a_machine_without_a_gpu_takes_the_plain_kernels_by_itself() -> None:
    assert choose_kernels("plain") is PLAIN
    if not torch.cuda.is_available():
        assert choose_kernels("auto") is PLAIN
