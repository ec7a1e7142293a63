"""Plain and fused kernels against float64. Without a GPU the fused ones run in Triton's interpreter."""

import importlib
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


# Kernel -> its constants and warps for a layer of Qwen3-4B. Pointers are bfloat16 unless they are named below.
COMPILED = {
    "triton_norm": {
        "_rms_norm_forward": ({"BLOCK": 4096}, 16),
        "_add_rms_norm_forward": ({"BLOCK": 4096}, 16),
        "_rms_norm_backward": ({"HAS_BESIDE": True, "BLOCK": 4096}, 16),
    },
    "triton_swiglu": {"_swiglu_forward": ({"BLOCK": 2048}, 4), "_swiglu_backward": ({"BLOCK": 2048}, 4)},
    "triton_loss": {
        "_row_statistics": ({"NEEDS_ENTROPY": True, "BLOCK": 4096}, 8),
        "_logit_gradient": ({"NEEDS_ENTROPY": True, "BLOCK": 4096}, 8),
    },
    "triton_adam": {"_adamw": ({"HAS_ROUNDED": True, "BLOCK": 2048}, 8)},
    "triton_query_key_value": {
        name: ({"GROUPS": 8, "QUERIES": 4, "HALF": 64, "BLOCK_TOKENS": 8, "BLOCK_HALF": 64}, 4)
        for name in ("_query_key_value_forward", "_query_key_value_backward")
    },
}
TYPES = {
    **dict.fromkeys(("length", "size", "num_rows", "num_tokens"), "i32"),
    **dict.fromkeys(("eps", "inverse_temperature"), "fp32"),
    **dict.fromkeys(("inverse", "partial", "cos", "sin", "log_norm", "grad_logprobs"), "*fp32"),
    **dict.fromkeys(("entropy", "grad_entropy", "largest", "total", "target", "weighted"), "*fp32"),
    "targets": "*i64",
}
ADAM_TYPES = {
    **dict.fromkeys(("weight", "grad", "mean", "square", "factor"), "*fp32"),
    **dict.fromkeys(("shrink", "rate", "correction", "mean_share", "beta_2", "square_share"), "fp32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("module", COMPILED)
def test_kernels_compile_for_hopper_where_no_gpu_is(module: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernels = importlib.import_module(f"rl_train.megatron.kernels.{module}")
    types = {**TYPES, **(ADAM_TYPES if module == "triton_adam" else {})}
    for name, (constants, num_warps) in COMPILED[module].items():
        kernel = vars(kernels)[name]
        source = ASTSource(
            kernel,
            signature={
                argument: "constexpr" if argument in constants else types.get(argument, "*bf16")
                for argument in kernel.arg_names
            },
            constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
        )
        compiled = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
        assert len(compiled.asm["cubin"]) > 0
