"""The two sides of a weight sync. Trainers and engines satisfy them by shape, without importing this package."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

type TensorSpec = tuple[str, str, tuple[int, ...]]
"""(Hugging Face name, torch dtype without the prefix such as "bfloat16", shape)."""


@runtime_checkable
class TensorSource(Protocol):
    """A trainer that can give out its weights under their Hugging Face names."""

    def tensor_specs(self) -> Sequence[TensorSpec]:
        """Name, dtype and shape of every tensor, in the order of `iter_tensors`; equal on every rank."""
        ...

    def iter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, whole. Collective: every trainer rank iterates to the end.

        On ranks other than the writer the tensors may be empty.
        """
        ...

    @property
    def is_writer(self) -> bool:
        """Whether this rank hands the tensors on."""
        ...


@runtime_checkable
class WeightSink(Protocol):
    """An engine that can take a whole new set of weights.

    Between `begin_update` and `commit_update` the engine serves nothing. Only the writer calls these.
    """

    def begin_update(self, version: int) -> None:
        """Stops serving and waits for what is in flight. What came since the last commit counts no more.

        Also comes, with nothing after it, where verifying finds that a sink does not hold what it committed.
        """
        ...

    def load_bucket(self, specs: Sequence[TensorSpec], buffer: torch.Tensor, checksum: str) -> None:
        """Loads the tensors that lie end to end in `buffer` ([bytes] uint8).

        A tensor may start where its dtype is not aligned. The buffer belongs to the caller, who writes the next bucket
        into it once this has returned.

        Raises:
            an error that names the bucket, if `checksum` (see `rl_weights.bucket_checksum`) is not the buffer's.
        """
        ...

    def commit_update(self, version: int, num_tensors: int) -> None:
        """Drops cached state of the old weights and serves again, as `version`.

        Raises:
            an error, and keeps refusing to serve, if not exactly `num_tensors` tensors have come.
        """
        ...

    def weight_version(self) -> int | None:
        """The version served now; None while no whole version is held."""
        ...


@runtime_checkable
class DeviceSink(WeightSink, Protocol):
    """A sink whose `load_bucket` also takes a buffer in the memory of a GPU, if it can read that."""

    def check_buffer(self, buffer: torch.Tensor, checksum: str) -> str | None:
        """Reads a buffer ([bytes] uint8, on a GPU) as `load_bucket` would; loads nothing.

        Returns:
            Why it cannot, such as a GPU of another machine; None if it can.
        """
        ...

    def let_go(self) -> None:
        """Keeps no mapping of the buffers that came, which their owner is about to free. Called after each publish."""
        ...


@runtime_checkable
class ChecksumSink(WeightSink, Protocol):
    """A sink that can say what it holds."""

    def tensor_checksums(self, specs: Sequence[TensorSpec]) -> Sequence[str]:
        """`rl_weights.bucket_checksum` of each tensor, read back from where the sink computes with it."""
        ...


@runtime_checkable
class TimedSink(WeightSink, Protocol):
    """A sink that knows where its time went."""

    def update_seconds(self) -> Mapping[str, float]:
        """Seconds that it spent itself on the latest update; "load" is what copying into the model took."""
        ...


@runtime_checkable
class GroupSink(WeightSink, Protocol):
    """A sink that receives buckets in a process group of its own with the writer, who is rank 0."""

    def num_ranks(self) -> int:
        """How many processes it is made of; they are ranks 1 and following, and each gets every bucket whole."""
        ...

    def join_group(self, address: str, backend: str, timeout_s: float) -> None:
        """Joins a new group; one that was joined before is left. Returns when all of the sink's ranks are in it.

        Args:
            address: "file:///PATH" or "tcp://HOST:PORT" of the store where the ranks meet.
            backend: "gloo" or "nccl".
            timeout_s: what each operation of the group may take.
        """
        ...

    def receive_bucket(self, specs: Sequence[TensorSpec], num_bytes: int, checksum: str) -> None:
        """`load_bucket` of the bytes that rank 0 broadcasts next. The writer calls it while it broadcasts."""
        ...


@runtime_checkable
class FolderSink(WeightSink, Protocol):
    """A sink that takes versions from a folder that it shares with the writer."""

    def load_version(self, folder: str) -> None:
        """Between `begin_update` and `commit_update`: loads the version that the folder holds.

        A folder with a delta stands beside those of the versions before it; what the sink missed it finds there.
        """
        ...
