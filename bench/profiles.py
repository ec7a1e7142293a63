"""Where a step's time goes on a GPU."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_TOP = 25
_TOP_GAPS = 8
_NAME_LENGTH = 110
_SHORT_NAME = 60
# Substrings of a kernel's name -> what it is, the first that fits.
_GROUPS = (
    ("attention", ("flash", "fmha", "cudnn_generated", "sdpa", "attention")),
    ("norm and rotation", ("rms_norm", "query_key_value")),
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
    ordered = sorted(spans, key=lambda span: span[1])
    for name, start, end in ordered:
        by_name[name].append(end - start)
        by_group[_group(name)] += end - start
    largest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_TOP]
    gaps = _gaps(ordered)
    idle = sum(gap for gap, _ in gaps)
    whole = max((end for _, _, end in ordered), default=0.0) - (ordered[0][1] if ordered else 0.0)
    return {
        "busy_ms": round((whole - idle) / 1e3, 2),
        "idle_ms": round(idle / 1e3, 2),
        "gaps": [
            {"ms": round(gap / 1e3, 2), "between": between}
            for gap, between in sorted(gaps, key=lambda x: -x[0])[:_TOP_GAPS]
        ],
        "groups_ms": {name: round(total / 1e3, 2) for name, total in sorted(by_group.items(), key=lambda x: -x[1])},
        "kernels": [
            {"ms": round(sum(each) / 1e3, 2), "calls": len(each), "name": name[:_NAME_LENGTH]} for name, each in largest
        ],
    }


def _group(name: str) -> str:
    lower = name.lower()
    return next((group for group, words in _GROUPS if any(word in lower for word in words)), "element-wise and other")


def _gaps(ordered: Sequence[tuple[str, float, float]]) -> list[tuple[float, list[str]]]:
    """Times without any kernel, with the kernels before and after; from spans ordered by their start."""
    gaps: list[tuple[float, list[str]]] = []
    last = ordered[0] if ordered else None
    for span in ordered:
        assert last is not None
        if span[1] > last[2]:
            gaps.append((span[1] - last[2], [last[0][:_SHORT_NAME], span[0][:_SHORT_NAME]]))
        last = span if span[2] > last[2] else last
    return gaps
