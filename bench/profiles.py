"""Where a step's time goes on a GPU."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

_TOP = 25
_NAME_LENGTH = 110
# Substrings of a kernel's name -> what it is, the first that fits.
_GROUPS = (
    ("attention", ("flash", "fmha", "cudnn_generated", "sdpa", "attention")),
    ("norm", ("rms_norm", "layer_norm", "rmsnorm", "norm_rotate", "_qkv_")),
    ("activation", ("swiglu", "silu")),
    ("loss", ("softmax", "row_statistics", "logit")),
    ("optimizer", ("adam", "multi_tensor", "lpnorm", "foreach")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "wgmma", "sm90_", "cublas")),
    ("copies", ("memcpy", "memset", "copy", "fill", "cat")),
    ("communication", ("nccl",)),
)


def profile(step: Callable[[], object]) -> dict[str, Any]:
    """Kernels of one call by time, grouped, and how long the GPU had nothing to do meanwhile."""
    import torch
    from torch.profiler import ProfilerActivity

    if not torch.cuda.is_available():
        return {"note": "no GPU"}
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        wall_ms = (time.perf_counter() - began) * 1e3
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return {"wall_ms": round(wall_ms, 2), **summary(spans)}


def summary(spans: Iterable[tuple[str, float, float]]) -> dict[str, Any]:
    """Sums of (kernel, start, end) in microseconds: by kernel, by group, and what lies between them."""
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    by_group: defaultdict[str, float] = defaultdict(float)
    intervals: list[tuple[float, float]] = []
    for name, start, end in spans:
        by_name[name].append(end - start)
        by_group[_group(name)] += end - start
        intervals.append((start, end))
    largest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_TOP]
    busy, idle = _busy_and_idle(intervals)
    return {
        "busy_ms": round(busy / 1e3, 2),
        "idle_ms": round(idle / 1e3, 2),
        "groups_ms": {name: round(total / 1e3, 2) for name, total in sorted(by_group.items(), key=lambda x: -x[1])},
        "kernels": [
            {"ms": round(sum(each) / 1e3, 2), "calls": len(each), "name": name[:_NAME_LENGTH]} for name, each in largest
        ],
    }


def _group(name: str) -> str:
    lower = name.lower()
    return next((group for group, words in _GROUPS if any(word in lower for word in words)), "element-wise and other")


def _busy_and_idle(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """Length of the union of the intervals, and of the gaps between the first's start and the last's end."""
    busy, reached, first = 0.0, None, 0.0
    for start, end in sorted(intervals):
        if reached is None:
            first, reached = start, start
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy, 0.0 if reached is None else reached - first - busy
