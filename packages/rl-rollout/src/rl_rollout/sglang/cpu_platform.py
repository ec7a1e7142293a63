"""Lets SGLang serve on a machine without a GPU; SGLang finds it through the entry point group `sglang.srt.platforms`.

Reason: SGLang's own CPU support (SGLANG_USE_CPU_ENGINE=1) imports kernels that are not in the published wheel for
machines without a CUDA driver. An out-of-tree platform selects the plain PyTorch implementation of every layer instead.
Remove it when a published `sglang` wheel serves with `device="cpu"` where no CUDA driver is, and honours
`sampling_seed` there.
"""

import os
from collections.abc import Mapping


def activate() -> str | None:
    """Path of the platform class, or None where CUDA is or SGLang's own CPU support is asked for."""
    import torch  # Here, because SGLang asks every installed platform, and only in its own processes.

    if torch.cuda.is_available() or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    return "rl_rollout.sglang.torch_cpu.TorchCpuPlatform"


def cpu_server_args(server_args: Mapping[str, object]) -> dict[str, object]:
    """SGLang's server arguments for this platform: the user's, and beside them what suits a CPU.

    Raises:
        ValueError: if the user chose something that this platform does not have.
    """
    for name, only in _ONLY_CHOICES.items():
        if server_args.get(name, only) != only:
            raise ValueError(f"SGLang's {name} can only be {only!r} on a CPU, got {server_args[name]!r}")
    return _DEFAULTS | {name: value for name, value in server_args.items() if name not in _WITHOUT_MEANING}


def cpu_environment(server_args: Mapping[str, object]) -> dict[str, str]:
    """Variables that SGLang's processes need on this platform where several of them share a model.

    SGLang asks which cores each process has, though it binds them only with kernels that are not here. And where it
    finds NCCL it takes it, for whatever device; where it finds none it goes by gloo.
    """
    num_ranks = server_args.get("tp_size", 1)
    assert isinstance(num_ranks, int)
    if num_ranks == 1:
        return {}
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join([cores] * num_ranks), "SGLANG_NCCL_SO_PATH": "/dev/null"}


_ONLY_CHOICES = {"device": "cpu", "attention_backend": "torch_native", "sampling_backend": "seeded"}
_DEFAULTS: dict[str, object] = {
    "device": "cpu",
    "dtype": "float32",
    "disable_cuda_graph": True,
    "sleep_on_idle": True,  # or the scheduler spins while others need the cores
}
# Memory is given up and taken back through CUDA's virtual addresses; a CPU engine keeps it.
_WITHOUT_MEANING = frozenset({"enable_memory_saver"})
