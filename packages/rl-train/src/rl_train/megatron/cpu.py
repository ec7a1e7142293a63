"""Megatron-Core on CPU ranks.

Megatron-Core 0.19 names CUDA in many places: `device="cuda"` in factory calls, `torch.cuda.current_device()`, streams
that it opens and waits for, tensor types compared with "torch.cuda.FloatTensor", and the random states of the CUDA
generators. None of it needs a GPU: on a CPU each has an equivalent that does the same or nothing. It also compiles its
small element-wise functions with inductor on first use, which takes about 40 s on a CPU and gains nothing there.

`enable_cpu_support()` puts the equivalents in place. It does nothing where CUDA is available, and it must run before
the first import of Megatron. Goes when Megatron takes its device from the process group or its configuration
(https://github.com/NVIDIA/Megatron-LM), that is when its own tests run on CPU ranks.
"""

import contextlib
import functools
import gc
import importlib
import sys
import warnings
from collections.abc import Callable, Generator
from typing import Any

import torch

_CPU = torch.device("cpu")
_FACTORIES = ("arange", "as_tensor", "empty", "full", "ones", "rand", "tensor", "zeros")
_GPU_LIBRARIES = ("flash_attn", "flashinfer")


def enable_cpu_support() -> bool:
    """Makes Megatron run on this process's CPU; True if it does now, False where CUDA is available.

    Changes torch for the whole process: call it only in a process that exists to be a trainer rank. Calling it again
    does nothing more.

    Raises:
        RuntimeError: if Megatron is imported already.
    """
    if torch.cuda.is_available():
        return False
    if torch.cuda.current_device is _current_device:
        return True
    if "megatron.core" in sys.modules:
        raise RuntimeError("enable_cpu_support: Megatron is imported already, and has bound torch.compile")
    _redirect_cuda()
    _redirect_factories()
    _redirect_tensor_methods()
    _import_for_cpu()
    _redirect_generators()
    return True


class _Stream:
    """A queue of work that is always done. Stands for streams and events alike."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None: ...

    def query(self) -> bool:
        return True

    def record_event(self, *_: object) -> "_Stream":
        return self

    def elapsed_time(self, _: object) -> float:
        return 0.0

    def synchronize(self) -> None: ...

    def wait_stream(self, _: object) -> None: ...

    def wait_event(self, _: object) -> None: ...

    def wait(self, *_: object) -> None: ...

    def record(self, *_: object) -> None: ...


def _current_device() -> torch.device:
    return _CPU


def _nothing(*_: object, **__: object) -> None: ...


def _new_stream(*_: object, **__: object) -> _Stream:
    return _Stream()


def _get_rng_state(*_: object, **__: object) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, *_: object, **__: object) -> None:
    torch.set_rng_state(state)


def _redirect_cuda() -> None:
    cuda: Any = torch.cuda
    cuda.current_device = _current_device
    cuda.set_device = _nothing
    cuda.synchronize = _nothing
    cuda.empty_cache = _nothing
    cuda.manual_seed = torch.default_generator.manual_seed
    cuda.get_rng_state = _get_rng_state
    cuda.set_rng_state = _set_rng_state
    cuda.Stream = cuda.Event = _Stream
    cuda.current_stream = cuda.default_stream = _new_stream
    cuda.stream = contextlib.nullcontext


def _on_cpu(device: object) -> object:
    is_cuda = (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )
    return _CPU if is_cuda else device


def _redirect_factories() -> None:
    """Factory functions take device="cuda" as the CPU."""

    def redirected(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(create)
        def on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
            if "device" in kwargs:
                kwargs["device"] = _on_cpu(kwargs["device"])
            return create(*args, **kwargs)

        return on_cpu

    for name in _FACTORIES:
        setattr(torch, name, redirected(getattr(torch, name)))


def _redirect_tensor_methods() -> None:
    tensor: Any = torch.Tensor
    real_type, real_to = tensor.type, tensor.to

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The type's name as it would be on a GPU, where Megatron compares it."""
        if args or kwargs:
            return real_type(self, *args, **kwargs)
        return real_type(self).replace("torch.", "torch.cuda.", 1)

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args:
            args = (_on_cpu(args[0]), *args[1:])
        if "device" in kwargs:
            kwargs["device"] = _on_cpu(kwargs["device"])
        return real_to(self, *args, **kwargs)

    def cuda(self: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return self

    tensor.type = type_
    tensor.to = to
    tensor.cuda = cuda


@contextlib.contextmanager
def importing_for_cpu() -> Generator[None]:
    """For the import of Megatron where it will use no GPU: neither compiles functions nor loads kernels for GPUs.

    Meanwhile `torch.compile` leaves functions as they are, and kernel libraries for GPUs are hidden, if installed: they
    cannot run here and take half of the time. Importing makes a million objects that stay, so looking for garbage among
    them waits, and never looks at those again.
    """

    def as_is(function: Callable[..., Any] | None = None, **_: object) -> Callable[..., Any]:
        return function if function is not None else as_is

    torch_: Any = torch
    compile_ = torch_.compile
    hidden = [name for name in _GPU_LIBRARIES if name not in sys.modules]
    torch_.compile = as_is
    gc.disable()
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(hidden))
    try:
        with warnings.catch_warnings():
            # Megatron warns about accelerators that are not installed.
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_.compile = compile_
        for name in hidden:
            del modules[name]
        gc.freeze()
        gc.enable()


def _import_for_cpu() -> None:
    """Imports Megatron; its jit_fuser stays switched off."""
    with importing_for_cpu():
        importlib.import_module("megatron.core.models.gpt")
        importlib.import_module("megatron.training.training")
        jit = importlib.import_module("megatron.core.jit")
    jit.disable_jit_fuser()


def _redirect_generators() -> None:
    """The random states that Megatron keeps per parallel group are the CPU generator's."""
    random: Any = importlib.import_module("megatron.core.tensor_parallel.random")
    random._set_cuda_rng_state = _set_rng_state
    random._get_cuda_rng_state = _get_rng_state
