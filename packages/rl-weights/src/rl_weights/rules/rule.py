"""How one tensor of Megatron's GPTModel is made of Hugging Face tensors, and back.

Names and shapes are known without torch, which is imported where tensors are joined or split.

Shape legend: N rows of a weight, I its columns; G key/value groups, Q query heads per group, D head_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_weights.errors import CheckpointError
from rl_weights.rules.box import Box

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule:
    """One tensor that both sides hold alike. Subclasses say where the two differ.

    Every method is exact to the bit and keeps dtype and device; results may share memory with what was given.
    """

    megatron_name: str
    """Parameter name in GPTModel with Megatron's local layer specification, layers counted over the whole model."""
    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    """Shape of each of `hf_names`."""
    tp_dim: int | None = None
    """Dimension of the Megatron tensor that tensor parallelism slices; None if every rank holds all of it."""
    tied_names: tuple[str, ...] = ()
    """Hugging Face names under which a checkpoint may hold the same tensor again. Never written."""
    expert: int | None = None
    """Number of the expert whose tensor it is, counted over the whole layer; None outside of the experts.

    Expert parallelism gives each rank a run of experts, and slices them by the expert-tensor-parallel size.
    """

    @property
    def megatron_shape(self) -> tuple[int, ...]:
        """Shape of the whole Megatron tensor."""
        return self.hf_shapes[0]

    def boxes(self, tp_rank: int, tp_size: int) -> tuple[Box, ...]:
        """The parts of the whole Megatron tensor that Megatron saves of one tensor-parallel rank.

        Raises:
            CheckpointError: if the tensor cannot be sliced into `tp_size` equal parts.
        """
        whole = Box.whole(self.megatron_shape)
        if self.tp_dim is None:
            return (whole,) if tp_rank == 0 else ()
        self._check_sliceable(whole.shape[self.tp_dim], tp_size)
        return (whole.split(self.tp_dim, tp_size)[tp_rank],)

    def make_box(self, read: "Callable[[str], Tensor]", box: Box) -> "Tensor":
        """One of `boxes`, from no more of the Hugging Face tensors than it takes; they must have the right shapes.

        Args:
            read: gives the tensor of a Hugging Face name.
            box: where it lies in the whole Megatron tensor.
        """
        return box.of(read(self.hf_names[0]))

    def to_megatron(self, hf_tensors: "Sequence[Tensor]") -> "Tensor":
        """The whole Megatron tensor.

        Args:
            hf_tensors: in the order of `hf_names`.

        Raises:
            CheckpointError: naming the tensor that has another shape or another dtype than the first.
        """
        if len(hf_tensors) != len(self.hf_names):
            raise CheckpointError(f"{self.megatron_name}: expected {len(self.hf_names)} tensors, got {len(hf_tensors)}")
        for name, shape, tensor in zip(self.hf_names, self.hf_shapes, hf_tensors, strict=True):
            if tuple(tensor.shape) != shape:
                raise CheckpointError(f"{name}: expected shape {shape} from config.json, got {tuple(tensor.shape)}")
            if tensor.dtype != hf_tensors[0].dtype:
                raise CheckpointError(
                    f"{name}: expected dtype {hf_tensors[0].dtype} as {self.hf_names[0]} has, got {tensor.dtype}"
                )
        return self._join(hf_tensors)

    def to_hf(self, full: "Tensor") -> "tuple[Tensor, ...]":
        """The Hugging Face tensors, in the order of `hf_names`.

        Raises:
            CheckpointError: if `full` has another shape than expected.
        """
        self._check_full(full)
        return tuple(self._split(full))

    def hf_box(self, number: int) -> Box | None:
        """The part of the whole Megatron tensor that one of `hf_names` is, if it is one."""
        return Box.whole(self.hf_shapes[number])

    def shard(self, full: "Tensor", tp_rank: int, tp_size: int) -> "Tensor":
        """The part of the whole Megatron tensor that one tensor-parallel rank holds.

        Raises:
            CheckpointError: if it cannot be sliced into `tp_size` equal parts.
        """
        if self.tp_dim is None or tp_size == 1:
            return full
        self._check_sliceable(full.shape[self.tp_dim], tp_size)
        return self._slice(full, tp_rank, tp_size)

    def unshard(self, shards: "Sequence[Tensor]") -> "Tensor":
        """The whole Megatron tensor from the parts of all tensor-parallel ranks, in the order of the ranks."""
        if self.tp_dim is None or len(shards) == 1:
            return shards[0]
        return _joined(shards, self.tp_dim)

    def _join(self, hf_tensors: "Sequence[Tensor]") -> "Tensor":
        return hf_tensors[0]

    def _split(self, full: "Tensor") -> "Sequence[Tensor]":
        return (full,)

    def _check_full(self, full: "Tensor") -> None:
        if tuple(full.shape) != self.megatron_shape:
            raise CheckpointError(
                f"{self.megatron_name}: expected shape {self.megatron_shape} from config.json, got {tuple(full.shape)}"
            )

    def _slice(self, full: "Tensor", tp_rank: int, tp_size: int) -> "Tensor":
        return full.chunk(tp_size, self.tp_dim or 0)[tp_rank]

    def _check_sliceable(self, size: int, tp_size: int) -> None:
        """Checks that each of `tp_size` ranks gets an equal part of the `size` rows or columns along `tp_dim`."""
        self._check_divisible(size, tp_size, "rows" if self.tp_dim == 0 else "columns")

    def _check_divisible(self, count: int, tp_size: int, what: str) -> None:
        if count % tp_size:
            raise CheckpointError(f"{self.megatron_name}: {count} {what} do not divide over {tp_size} ranks")


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseQKV(TensorRule):
    """Query, key and value projections as one, ordered by key/value group: [G, (Q + 2) * D, ...]."""

    num_groups: int

    @property
    def megatron_shape(self) -> tuple[int, ...]:
        """Shape of the whole Megatron tensor."""
        return (sum(shape[0] for shape in self.hf_shapes), *self.hf_shapes[0][1:])

    def _join(self, hf_tensors: "Sequence[Tensor]") -> "Tensor":
        grouped = [self._by_group(tensor) for tensor in hf_tensors]
        return _joined(grouped, dim=1).flatten(0, 1)

    def _split(self, full: "Tensor") -> "Sequence[Tensor]":
        import torch

        rows_of_group = [shape[0] // self.num_groups for shape in self.hf_shapes]
        return [part.flatten(0, 1) for part in torch.split(self._by_group(full), rows_of_group, dim=1)]

    def _by_group(self, rows: "Tensor") -> "Tensor":
        """[G, rows of a group, ...]."""
        return rows.reshape(self.num_groups, -1, *rows.shape[1:])

    def hf_box(self, number: int) -> Box | None:
        """See `TensorRule.hf_box`: none, for the rows of all three take turns."""
        return None

    def make_box(self, read: "Callable[[str], Tensor]", box: Box) -> "Tensor":
        """See `TensorRule.make_box`."""
        rows_of_group = self.megatron_shape[0] // self.num_groups
        first, count = box.offset[0] // rows_of_group, box.shape[0] // rows_of_group
        grouped = [self._by_group(read(name))[first : first + count] for name in self.hf_names]
        return _joined(grouped, dim=1).flatten(0, 1)

    def _check_sliceable(self, size: int, tp_size: int) -> None:
        self._check_divisible(self.num_groups, tp_size, "key/value groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseGateUp(TensorRule):
    """Gate and up projections as one: gate rows, then up rows, and the same within every tensor-parallel rank."""

    @property
    def megatron_shape(self) -> tuple[int, ...]:
        """Shape of the whole Megatron tensor."""
        return (2 * self.hf_shapes[0][0], *self.hf_shapes[0][1:])

    def boxes(self, tp_rank: int, tp_size: int) -> tuple[Box, ...]:
        """See `TensorRule.boxes`: the rank's gate rows and its up rows, each by itself."""
        num_rows = self.hf_shapes[0][0]
        self._check_sliceable(2 * num_rows, tp_size)
        gate = Box.whole(self.hf_shapes[0]).split(0, tp_size)[tp_rank]
        return (gate, gate.moved(0, num_rows))

    def hf_box(self, number: int) -> Box | None:
        """See `TensorRule.hf_box`."""
        return Box.whole(self.hf_shapes[number]).moved(0, number * self.hf_shapes[0][0])

    def make_box(self, read: "Callable[[str], Tensor]", box: Box) -> "Tensor":
        """See `TensorRule.make_box`."""
        number, row = divmod(box.offset[0], self.hf_shapes[0][0])
        return box.moved(0, row - box.offset[0]).of(read(self.hf_names[number]))

    def unshard(self, shards: "Sequence[Tensor]") -> "Tensor":
        """The whole Megatron tensor from the parts of all tensor-parallel ranks, in the order of the ranks."""
        halves = [shard.chunk(2, dim=0) for shard in shards]
        return _joined([gate for gate, _ in halves] + [up for _, up in halves])

    def _join(self, hf_tensors: "Sequence[Tensor]") -> "Tensor":
        return _joined(hf_tensors)

    def _split(self, full: "Tensor") -> "Sequence[Tensor]":
        return full.chunk(2, dim=0)

    def _slice(self, full: "Tensor", tp_rank: int, tp_size: int) -> "Tensor":
        return _joined([half.chunk(tp_size, 0)[tp_rank] for half in full.chunk(2, dim=0)])

    def _check_sliceable(self, size: int, tp_size: int) -> None:
        self._check_divisible(size // 2, tp_size, "gate rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class PadVocabulary(TensorRule):
    """A row for each token, and rows of zeros up to a size that suits the hardware and the tensor-parallel ranks."""

    padded_rows: int
    """Rows of the Megatron tensor that `to_megatron` gives; `to_hf` takes any number that is not less than needed."""

    @property
    def megatron_shape(self) -> tuple[int, ...]:
        """Shape of the whole Megatron tensor."""
        return (self.padded_rows, *self.hf_shapes[0][1:])

    def make_box(self, read: "Callable[[str], Tensor]", box: Box) -> "Tensor":
        """See `TensorRule.make_box`."""
        tensor = read(self.hf_names[0])
        rows = tensor[box.offset[0] : box.offset[0] + box.shape[0]]
        num_missing = box.shape[0] - rows.shape[0]
        return _joined([rows, rows.new_zeros(num_missing, *rows.shape[1:])]) if num_missing else rows

    def _join(self, hf_tensors: "Sequence[Tensor]") -> "Tensor":
        (tensor,) = hf_tensors
        num_missing = self.padded_rows - tensor.shape[0]
        return _joined([tensor, tensor.new_zeros(num_missing, *tensor.shape[1:])]) if num_missing else tensor

    def _split(self, full: "Tensor") -> "Sequence[Tensor]":
        return (full[: self.hf_shapes[0][0]],)

    def _check_full(self, full: "Tensor") -> None:
        num_rows, *rest = self.hf_shapes[0]
        if full.ndim != len(rest) + 1 or full.shape[0] < num_rows or list(full.shape[1:]) != rest:
            raise CheckpointError(
                f"{self.megatron_name}: expected shape {(f'>= {num_rows}', *rest)} from config.json, "
                f"got {tuple(full.shape)}"
            )


def _joined(parts: "Sequence[Tensor]", dim: int = 0) -> "Tensor":
    import torch

    return torch.cat(list(parts), dim)
