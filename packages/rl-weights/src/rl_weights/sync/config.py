"""Which way weights go, as a value that can be passed between processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from rl_weights.sync.transports.transport import Transport

type TransportName = Literal["auto", "cuda_ipc", "host", "gloo", "nccl", "disk"]
type SyncMode = Literal["full", "delta"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """How buckets get from the writer to the engines.

    Raises:
        ValueError: if a setting is missing, is none of those there are, or has no effect.
    """

    transport: TransportName = "auto"
    """"cuda_ipc": the engines read the writer's GPU memory, also from other GPUs of its machine; "host": the bytes are
    handed to them; "auto": the first if every engine can, else the second; "gloo", "nccl": a process group with each
    engine; "disk": a shared folder."""
    mode: SyncMode = "full"
    """On a disk: everything, or what changed since the version before."""
    folder: Path | None = None
    """For the disk; in it each publisher makes a folder of its own."""
    owner: str | None = None
    """For the disk: what is the same for a publisher and those that follow it, such as the folder of a run. They remove
    what it left if it was killed; without an owner, those on the same machine do."""
    host: str | None = None
    """For gloo and nccl: this machine's address, if engines are on other machines."""
    keep_buffers: bool = False
    """Keeps two buckets' memory on the GPU of the weights between publishes, and where engines read it, their handles
    and mappings of it. For a trainer that has room for it at every time: engines that share its GPU lose it too."""

    def __post_init__(self) -> None:
        for field, got, choices in (("transport", self.transport, TransportName), ("mode", self.mode, SyncMode)):
            names: tuple[str, ...] = get_args(choices.__value__)
            if got not in names:
                raise ValueError(f"sync: {field}: expected one of {', '.join(names)}, got {got!r}")
        if (self.transport == "disk") != (self.folder is not None):
            raise ValueError(f"sync: a folder belongs to the transport disk, got {self.transport} and {self.folder}")
        if self.owner is not None and self.transport != "disk":
            raise ValueError(f"sync: an owner belongs to the transport disk, got {self.transport}")
        if self.mode == "delta" and self.transport != "disk":
            raise ValueError(f"sync: mode delta belongs to the transport disk, got {self.transport}")
        if self.host is not None and not self.meets:
            raise ValueError(f"sync: a host belongs to the transports gloo and nccl, got {self.transport}")
        if self.keep_buffers and self.transport not in ("auto", "cuda_ipc", "nccl"):
            raise ValueError(
                f"sync: keep_buffers belongs to the transports auto, cuda_ipc and nccl, got {self.transport}, whose "
                "buffers are in host memory and stay"
            )

    @property
    def meets(self) -> bool:
        """Whether the writer meets the engines in process groups."""
        return self.transport in ("gloo", "nccl")

    def make_transport(self) -> "Transport":
        """A transport for one publisher."""
        from rl_weights.sync.transports.direct import DirectTransport
        from rl_weights.sync.transports.disk import DiskTransport
        from rl_weights.sync.transports.group import GroupTransport

        match self.transport:
            case "gloo" | "nccl":
                return GroupTransport(self.transport, self.host)
            case "disk":
                assert self.folder is not None
                return DiskTransport(self.folder, self.mode, owner=self.owner)
            case "auto":
                return DirectTransport()
            case "cuda_ipc":
                return DirectTransport(allow_host=False)
            case "host":
                return DirectTransport(allow_gpu=False)
