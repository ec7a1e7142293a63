"""How long the phases of a step take on the device that does the work."""

import time

import torch


class PhaseClock:
    """Seconds of phases that follow each other. On a GPU they are the GPU's, which the host does not wait for.

    Example:
        clock = PhaseClock(device)
        ...
        clock.mark("forward_backward")
        ...
        clock.mark("optimizer")
        seconds = clock.seconds()
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []
        self.mark("")

    def mark(self, phase: str) -> None:
        """Ends a phase, which began at the mark before or when the clock was made."""
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Of each phase. Waits for the last mark."""
        result: dict[str, float] = {}
        for (_, begun), (phase, ended) in zip(self._marks, self._marks[1:], strict=False):
            if isinstance(begun, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
                ended.synchronize()
                result[phase] = begun.elapsed_time(ended) / 1e3
            elif isinstance(begun, float) and isinstance(ended, float):
                result[phase] = ended - begun
        return result
