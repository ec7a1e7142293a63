"""The process group in which an engine's processes receive weights from the writer."""

import socket
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
from torch.distributed import FileStore, ProcessGroupGloo, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from rl_rollout.sglang.messages import JoinGroup

_LOOPBACK = "127.0.0.1"


class WeightGroup:
    """At most one group at a time; the writer is its rank 0.

    It is no part of torch's global state, so it does not meet SGLang's own groups.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._device = torch.device("cpu")
        self._flat = torch.empty(0, dtype=torch.uint8)

    def join(self, task: JoinGroup, device: torch.device) -> None:
        """Leaves the group before, and returns when all are in the new one.

        Args:
            task: with this process's own rank.
            device: of the model; buckets are received there over nccl, and in host memory over gloo.
        """
        self._group = None
        place = urlsplit(task.address)
        timeout = timedelta(seconds=task.timeout_s)
        store: Store
        if place.scheme == "file":
            store = FileStore(place.path, task.size)
            store.set_timeout(timeout)
        else:
            assert place.hostname is not None
            assert place.port is not None
            store = TCPStore(place.hostname, place.port, is_master=False, timeout=timeout)
        if task.backend == "nccl":
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = timeout
            self._group, self._device = ProcessGroupNCCL(store, task.first_rank, task.size, options), device
            return
        gloo: Any = ProcessGroupGloo  # annotated in part only
        options = gloo._Options()
        options._timeout = timeout
        options._devices = [gloo.create_device(hostname=_own_address(place.hostname))]
        self._group, self._device = gloo(store, task.first_rank, task.size, options), torch.device("cpu")

    def receive(self, num_bytes: int) -> torch.Tensor:
        """The next bucket ([bytes] uint8), in memory that the one after it overwrites."""
        if self._group is None:
            raise RuntimeError("a bucket was announced over a group, but none was joined")
        if self._flat.device != self._device or self._flat.numel() < num_bytes:
            self._flat = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
        flat = self._flat[:num_bytes]
        self._group.broadcast(flat, 0).wait()
        return flat

    def free(self) -> None:
        """Gives the memory of buckets back until the next one comes."""
        self._flat = torch.empty(0, dtype=torch.uint8)


def _own_address(writer: str | None) -> str:
    """The address of this machine on the way to the writer's."""
    if writer is None or writer == _LOOPBACK:
        return _LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((writer, 9))  # sends nothing
        return probe.getsockname()[0]
