"""How Triton kernels are launched here."""

# pyright: standard
# Triton is annotated for kernels, not for their calls.

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor

_PROGRAMS_PER_PROCESSOR = 4
_INTERPRETED_PROGRAMS = 3


def compiled(kernel: Callable[..., Any]) -> Any:
    """The kernel for Triton to compile, or to interpret where TRITON_INTERPRET is set."""
    return triton.jit(kernel)


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's. Nothing on a CPU, where it interprets."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def num_programs(tensor: Tensor, num_rows: int) -> int:
    """Programs that share the rows among them, each adding up its own part of a weight's gradient.

    A fixed number for a card, so that sums are added in one order.
    """
    if not tensor.is_cuda:
        return min(num_rows, _INTERPRETED_PROGRAMS)
    processors = torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return min(num_rows, processors * _PROGRAMS_PER_PROCESSOR)


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is not below a positive number: blocks have such sizes."""
    return 1 << (number - 1).bit_length()
