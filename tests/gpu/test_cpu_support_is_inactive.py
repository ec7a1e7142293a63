"""Where CUDA is, the two modules that make the stack run on a CPU stay out of the way."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.gpu

MEGATRON = """
import torch
from rl_train.megatron.cpu import enable_cpu_support
current_device = torch.cuda.current_device
assert enable_cpu_support() is False
assert torch.cuda.current_device is current_device
"""
SGLANG = """
from rl_rollout.sglang.cpu_platform import activate
assert activate() is None
"""


@pytest.mark.parametrize("program", [MEGATRON, SGLANG], ids=["megatron", "sglang"])
def test_cpu_support_changes_nothing_where_cuda_is(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
