"""Where each part of a bucket goes in a model of SGLang: seen once, then repeated without SGLang's Python code.

SGLang loads a tensor by a function of the parameter that it belongs to, some of which are put together of several
tensors. All of them end in copies, so the copies that one load makes are noted and made again for later buckets of the
same tensors: 400 tensors of a 4B model then take 2 ms of Python instead of 30.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_COPY = torch.ops.aten.copy_.default
_FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)


class SGLangModel(Protocol):
    """A model of SGLang, as far as it is used here."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of `torch.nn.Module`."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> object:
        """Copies tensors under their Hugging Face names into the parameters."""
        ...


class _Copy(NamedTuple):
    """Part of a bucket -> part of a parameter."""

    target: torch.Tensor
    dtype: torch.dtype
    start: int
    """First byte in the bucket."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class LoadPlan:
    """The copies and fills by which a bucket gets into the model.

    Example:
        >>> plan = LoadPlan.load_and_see(model, tensors, bucket)
        >>> if plan is not None and plan.fits(model):
        ...     plan.load(next_bucket)
    """

    def __init__(self, copies: Sequence[_Copy], fills: Sequence[Callable[[], object]]) -> None:
        self._copies = tuple(copies)
        self._fills = tuple(fills)
        self._storages = {copy.target.untyped_storage().data_ptr() for copy in copies}

    @classmethod
    def load_and_see(
        cls, model: SGLangModel, tensors: Iterable[tuple[str, torch.Tensor]], bucket: torch.Tensor
    ) -> Self | None:
        """Loads the tensors, which are views of the bucket ([bytes] uint8), in SGLang's own way.

        Returns the plan of it; None if not every byte of the bucket was seen to be copied, as where a tensor had to be
        cast or aligned first.
        """
        with _CopySpy(bucket) as spy, torch.no_grad():
            model.load_weights(tensors)
        return cls(spy.copies, spy.fills) if spy.has_seen_all() else None

    def fits(self, model: SGLangModel) -> bool:
        """Whether the parameters still have the memory that they had."""
        return self._storages <= {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    @torch.no_grad()
    def load(self, bucket: torch.Tensor) -> None:
        """Copies a bucket with the same tensors into the parameters; on a GPU it is only queued."""
        for fill in self._fills:
            fill()
        targets = [copy.target for copy in self._copies]
        torch._foreach_copy_(targets, self._sources(bucket))  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def _sources(self, bucket: torch.Tensor) -> list[torch.Tensor]:
        typed = {
            dtype: bucket[: bucket.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
            for dtype in {copy.dtype for copy in self._copies}
        }
        return [
            typed[dtype].as_strided(shape, stride, typed[dtype].storage_offset() + start // dtype.itemsize)
            for _, dtype, start, shape, stride in self._copies
        ]


@torch.no_grad()
def read_back(model: SGLangModel, name: str, tensor: torch.Tensor) -> None:
    """Writes what the parameters hold into the tensor, which has the shape of the Hugging Face tensor of that name.

    Found by SGLang's own way to load it, with every copy into a parameter turned around. What this process does not
    hold, as where the model is spread over several, stays as it is.

    Raises:
        RuntimeError: if SGLang's way leads through a copy of the tensor, from which nothing comes back.
    """
    with _TurnedAround(model, tensor) as turned:
        model.load_weights([(name, tensor)])
    if turned.num_lost:
        raise RuntimeError(f"{name}: SGLang loads it by way of a copy, so it cannot be read back")


class _TurnedAround(TorchDispatchMode):
    """Copies out of parameters instead of into them, and does not fill them; lets everything else happen."""

    def __init__(self, model: SGLangModel, tensor: torch.Tensor) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._tensor = tensor.untyped_storage().data_ptr()
        self.num_lost = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        is_write = func is _COPY or func in _FILLS
        if not is_write or args[0].untyped_storage().data_ptr() not in self._parameters:
            return func(*args, **(kwargs or {}))
        if func is _COPY:
            if args[1].untyped_storage().data_ptr() == self._tensor:
                func(args[1], args[0])
            else:
                self.num_lost += 1
        return args[0]


class _CopySpy(TorchDispatchMode):
    """Lets everything happen, and notes the copies out of one bucket, and the fills."""

    def __init__(self, bucket: torch.Tensor) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._storage = bucket.untyped_storage().data_ptr()
        self._first_byte = bucket.storage_offset()
        self._num_bytes = bucket.numel()
        self.copies: list[_Copy] = []
        self.fills: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        if func is _COPY and args[1].untyped_storage().data_ptr() == self._storage:
            target, source = args[:2]
            start = source.storage_offset() * source.element_size() - self._first_byte
            self.copies.append(_Copy(target, source.dtype, start, tuple(source.shape), source.stride()))
        elif func in _FILLS:
            self.fills.append(lambda: func(*args))
        return func(*args, **(kwargs or {}))

    def has_seen_all(self) -> bool:
        """Whether the copies cover the bucket without a hole, each from memory that lies together."""
        reached = 0
        for copy in sorted(self.copies, key=lambda copy: copy.start):
            num_elements = torch.Size(copy.shape).numel()
            is_dense = torch.empty(copy.shape, device="meta").stride() == copy.stride or num_elements <= 1
            if not is_dense or copy.start > reached:
                return False
            reached = max(reached, copy.start + num_elements * copy.dtype.itemsize)
        return reached == self._num_bytes
