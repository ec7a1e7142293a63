"""The two sides of a weight sync. Trainers and engines satisfy them by shape, without importing this package."""

from collections.abc import Iterator, Sequence
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
        """Stops serving and waits for what is in flight."""
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
    """A sink whose `load_bucket` also takes a buffer in the memory of one GPU, which need not be this process's own."""

    def device_uuid(self) -> str | None:
        """UUID of that GPU, as `torch.cuda.get_device_properties` gives it; None if it takes host memory alone."""
        ...

    def let_go(self) -> None:
        """Keeps no mapping of the buffers that came, which their owner is about to free. Called after each publish."""
        ...


@runtime_checkable
class ComparingSink(WeightSink, Protocol):
    """A sink that can say whether it holds the weights that it was given."""

    def compare_bucket(self, specs: Sequence[TensorSpec], buffer: torch.Tensor, checksum: str) -> None:
        """Does nothing if the weights held now are those of the buffer. Arguments as for `load_bucket`.

        Raises:
            an error that names the bucket, if they are not, or `checksum` is not the buffer's.
        """
        ...
