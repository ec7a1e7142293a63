"""Lets Megatron-Core run on a CPU rank of a test. `prepare()` comes before the first import of Megatron.

Megatron names CUDA in many places where nothing on a CPU needs it. Only what building, saving and loading a GPTModel
touches is redirected here.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")


class _Nothing:
    """Stands for a stream or an event: its work is always done."""

    def __init__(self, *_, **__): ...
    def __enter__(self):
        return self

    def __exit__(self, *_): ...
    def synchronize(self, *_): ...
    def wait_stream(self, *_): ...
    def record(self, *_): ...


def _on_cpu(device):
    is_cuda = (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )
    return _CPU if is_cuda else device


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = _on_cpu(kwargs["device"])
        if function is torch.Tensor.to and len(args) > 1:
            args = (args[0], _on_cpu(args[1]), *args[2:])
        if function is torch.Tensor.type and len(args) == 1 and not kwargs:
            return function(*args).replace("torch.", "torch.cuda.")
        return function(*args, **kwargs)


def prepare():
    """Redirects torch.cuda for this whole process, imports Megatron and switches its compilation off."""
    cuda = torch.cuda
    cuda.current_device = lambda: _CPU
    cuda.set_device = cuda.synchronize = lambda *_, **__: None
    cuda.empty_cache = lambda: None
    cuda.manual_seed = torch.default_generator.manual_seed
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    cuda.Stream = cuda.Event = _Nothing
    cuda.current_stream = cuda.default_stream = lambda *_: _Nothing()
    cuda.stream = lambda _: contextlib.nullcontext()
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.compile = lambda function=None, **_: function if function is not None else (lambda inner: inner)
    import megatron.core.tensor_parallel.random as random
    from megatron.core import jit

    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    jit.disable_jit_fuser()
    _CudaMeansCpu().__enter__()
