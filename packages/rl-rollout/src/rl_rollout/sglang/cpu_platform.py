"""Lets SGLang serve on a machine without a GPU; SGLang finds it through the entry point group `sglang.srt.platforms`.

Reason: SGLang's own CPU support (SGLANG_USE_CPU_ENGINE=1) imports kernels that are not in the published wheel for
machines without a CUDA driver. An out-of-tree platform selects the plain PyTorch implementation of every layer instead.
Remove it when a published `sglang` wheel serves with `device="cpu"` where no CUDA driver is, and honours
`sampling_seed` there.
"""

import os


def activate() -> str | None:
    """Path of the platform class, or None where CUDA is or SGLang's own CPU support is asked for."""
    import torch  # Here, because SGLang asks every installed platform, and only in its own processes.

    if torch.cuda.is_available() or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    return "rl_rollout.sglang.torch_cpu.TorchCpuPlatform"
