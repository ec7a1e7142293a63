"""A source and a sink in memory, and the checks that every source and every sink passes, real or fake.

Example:
    >>> check_weight_sink(InMemorySink)
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore, ProcessGroupGloo  # pyright: ignore[reportPrivateImportUsage]

from rl_weights.checksum import as_bytes, bucket_checksum
from rl_weights.checksum import checksum as checksum_of
from rl_weights.dtypes import dtype_name, dtype_named, num_bytes
from rl_weights.errors import SyncError
from rl_weights.protocols import TensorSource, TensorSpec, WeightSink
from rl_weights.sync.publisher import Publisher
from rl_weights.sync.read_version import read_version

_RESIDENT = ("RssAnon", "RssShmem")


class InMemorySource:
    """Gives out the tensors of a mapping, in its order. They may be changed between publishes."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, is_writer: bool = True) -> None:
        self.tensors = dict(tensors)
        self._is_writer = is_writer

    @property
    def is_writer(self) -> bool:
        """Whether this rank hands the tensors on."""
        return self._is_writer

    def tensor_specs(self) -> Sequence[TensorSpec]:
        """See `TensorSource.tensor_specs`."""
        return [(name, dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def iter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `TensorSource.iter_tensors`; the tensors are empty where this rank is not the writer."""
        for name, tensor in self.tensors.items():
            yield name, tensor if self._is_writer else tensor.new_empty(0)


class InMemorySink:
    """Keeps the tensors that come, and serves them as a whole version.

    Args:
        name: how messages call it.
        fail_at: the call that raises RuntimeError, such as "load_bucket"; none if None.
        hang_at: the call that does not return before `release` is set; none if None.
    """

    def __init__(self, name: str = "sink", *, fail_at: str | None = None, hang_at: str | None = None) -> None:
        self.name = name
        self.fail_at = fail_at
        self.hang_at = hang_at
        self.release = threading.Event()
        """Lets a call that hangs go on."""
        self.tensors: dict[str, torch.Tensor] = {}
        """What is served."""
        self._incoming: dict[str, torch.Tensor] | None = None
        self._announced: int | None = None
        self._version: int | None = None
        self._group: Any = None

    def begin_update(self, version: int) -> None:
        """See `WeightSink.begin_update`."""
        self._enter("begin_update")
        self._version, self._announced, self._incoming = None, version, {}

    def load_bucket(self, specs: Sequence[TensorSpec], buffer: torch.Tensor, checksum: str) -> None:
        """See `WeightSink.load_bucket`."""
        self._enter("load_bucket")
        if self._incoming is None:
            raise SyncError(f"{self.name}: a bucket came before begin_update")
        where = f"{self.name}: bucket from {specs[0][0] if specs else '-'}"
        if (actual := bucket_checksum(buffer)) != checksum:
            raise SyncError(f"{where}: expected checksum {checksum}, got {actual}")
        expected_bytes = sum(num_bytes(dtype, tuple(shape)) for _, dtype, shape in specs)
        if expected_bytes != buffer.numel():
            raise SyncError(f"{where}: {len(specs)} tensors take {expected_bytes} bytes, got {buffer.numel()}")
        offset = 0
        for name, dtype, shape in specs:
            size = num_bytes(dtype, tuple(shape))
            # Cloned before the view, because a tensor may start where its dtype is not aligned.
            part = buffer[offset : offset + size].clone()
            self._incoming[name] = part.view(dtype_named(dtype, name)).reshape(tuple(shape))
            offset += size

    def tensor_checksums(self, specs: Sequence[TensorSpec]) -> Sequence[str]:
        """See `ChecksumSink.tensor_checksums`."""
        self._enter("tensor_checksums")
        return [bucket_checksum(as_bytes(self.tensors[name])) for name, _, _ in specs]

    def num_ranks(self) -> int:
        """See `GroupSink.num_ranks`."""
        return 1

    def join_group(self, address: str, backend: str, timeout_s: float) -> None:
        """See `GroupSink.join_group`; over gloo, with a file."""
        self._enter("join_group")
        assert backend == "gloo", f"{self.name}: expected gloo, got {backend}"
        timeout = timedelta(seconds=timeout_s)
        store = FileStore(address.removeprefix("file://"), 1 + self.num_ranks())
        gloo: Any = ProcessGroupGloo  # annotated in part only
        options = gloo._Options()
        options._timeout = timeout
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        self._group = gloo(store, 1, 1 + self.num_ranks(), options)

    def receive_bucket(self, specs: Sequence[TensorSpec], num_bytes: int, checksum: str) -> None:
        """See `GroupSink.receive_bucket`."""
        self._enter("receive_bucket")
        buffer = torch.empty(num_bytes, dtype=torch.uint8)
        self._group.broadcast(buffer, 0).wait()
        self.load_bucket(specs, buffer, checksum)

    def load_version(self, folder: str) -> None:
        """See `FolderSink.load_version`."""
        self._enter("load_version")
        self._incoming = read_version(Path(folder))

    def commit_update(self, version: int, num_tensors: int) -> None:
        """See `WeightSink.commit_update`."""
        self._enter("commit_update")
        if self._incoming is None or version != self._announced:
            raise SyncError(f"{self.name}: commit_update({version}), but version {self._announced} was begun")
        if len(self._incoming) != num_tensors:
            raise SyncError(
                f"{self.name}: version {version}: expected {num_tensors} tensors, got {len(self._incoming)}"
            )
        self.tensors, self._incoming, self._version = self._incoming, None, version

    def weight_version(self) -> int | None:
        """See `WeightSink.weight_version`."""
        return self._version

    def _enter(self, call: str) -> None:
        if self.hang_at == call:
            self.release.wait()
        if self.fail_at == call:
            raise RuntimeError(f"{call} fails on purpose")


def small_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of several dtypes and shapes, one of a single byte so that those behind it are not aligned."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(7, 3, generator=generator),
        "flag": torch.tensor([True]),
        "norm": torch.randn(5, generator=generator).to(torch.bfloat16),
        "scalar": torch.randn((), generator=generator),
        "transposed": torch.randn(4, 6, generator=generator).T,
    }


def resident_bytes(process_id: int) -> int:
    """Memory of a process that is resident, on Linux: its own and what it shares by handles, such as memfd buffers.

    Mapped files are left out, for pages of libraries come and go with other processes that map them.
    """
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    found = {name: int(value.split()[0]) for name, value in (line.split(":", 1) for line in lines) if name in _RESIDENT}
    return 1024 * sum(found[name] for name in _RESIDENT)


def check_tensor_source(source: TensorSource) -> None:
    """What `TensorSource` promises. Collective: every rank of the source calls it.

    Raises:
        AssertionError: if a promise is broken.
    """
    assert isinstance(source, TensorSource), f"{type(source).__name__} lacks a method of TensorSource"
    specs = [(name, dtype, tuple(shape)) for name, dtype, shape in source.tensor_specs()]
    assert specs, "the source has no tensors"
    names = [name for name, _, _ in specs]
    assert len(set(names)) == len(names), "a name is there twice"
    for name, dtype, _ in specs:
        dtype_named(dtype, name)
    first = _content(source, specs)
    again = [(name, dtype, tuple(shape)) for name, dtype, shape in source.tensor_specs()]
    assert again == specs, "tensor_specs changed between calls"
    assert _content(source, specs) == first, "unchanged weights gave other bytes the second time"


def _content(source: TensorSource, specs: Sequence[TensorSpec]) -> list[str]:
    """Checksums of the tensors, after their names and, on the writer, their dtypes and shapes are compared."""
    names: list[str] = []
    checksums: list[str] = []
    for index, (name, tensor) in enumerate(source.iter_tensors()):
        assert index < len(specs), f"{name} comes after all of the specs"
        names.append(name)
        if source.is_writer:
            actual = (name, dtype_name(tensor.dtype), tuple(tensor.shape))
            assert actual == specs[index], f"specs say {specs[index]}, iter_tensors gave {actual}"
            checksums.append(checksum_of(tensor))
    assert names == [name for name, _, _ in specs], "iter_tensors did not follow the order of tensor_specs"
    return checksums


def check_weight_sink(make_sink: Callable[[], WeightSink], source: TensorSource | None = None) -> None:
    """What `WeightSink` promises: it serves only whole versions. The sink ends up serving version 9 of the source.

    Args:
        make_sink: gives the sink; called once.
        source: gives every tensor of the sink's model, at least two; small tensors of any kind if None.

    Raises:
        AssertionError: if a promise is broken.
    """
    sink = make_sink()
    assert isinstance(sink, WeightSink), f"{type(sink).__name__} lacks a method of WeightSink"
    source = source or InMemorySource(small_tensors())
    tensors = [(name, tensor) for name, tensor in source.iter_tensors()]
    assert len(tensors) >= 2, "the checks need a source of at least two tensors"
    buckets = [_bucket(tensors[:1]), _bucket(tensors[1:])]

    sink.begin_update(7)
    assert sink.weight_version() is None, "the sink serves while an update is under way"
    specs, buffer = buckets[0]
    _must_raise(lambda: sink.load_bucket(specs, buffer, "0" * 16), "a bucket with a wrong checksum")
    sink.load_bucket(specs, buffer, bucket_checksum(buffer))
    _must_raise(lambda: sink.commit_update(7, len(tensors)), "committing half of the tensors")
    assert sink.weight_version() is None, "the sink serves half an update"

    sink.begin_update(8)
    for specs, buffer in buckets:
        sink.load_bucket(specs, buffer, bucket_checksum(buffer))
    _must_raise(lambda: sink.commit_update(8, len(tensors) + 1), "committing fewer tensors than announced")
    assert sink.weight_version() is None, "the sink serves an update that was not committed"

    sink.begin_update(8)
    for specs, buffer in buckets:
        sink.load_bucket(specs, buffer, bucket_checksum(buffer))
    sink.commit_update(8, len(tensors))
    assert sink.weight_version() == 8, f"expected version 8 after its commit, got {sink.weight_version()}"
    largest = max(tensor.numel() * tensor.element_size() for _, tensor in tensors)
    Publisher(source, [sink], bucket_bytes=max(1, largest // 2)).publish(9)
    assert sink.weight_version() == 9, f"expected version 9 after a publish, got {sink.weight_version()}"


def _bucket(tensors: Sequence[tuple[str, torch.Tensor]]) -> tuple[list[TensorSpec], torch.Tensor]:
    specs: list[TensorSpec] = [(name, dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors]
    parts = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for _, tensor in tensors]
    return specs, torch.cat(parts)


def _must_raise(call: Callable[[], None], what: str) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 - which error a sink raises is its own affair
        return
    raise AssertionError(f"{what} raised nothing")
