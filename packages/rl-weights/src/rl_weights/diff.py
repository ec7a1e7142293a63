"""How two checkpoints differ, tensor by tensor, also across formats."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rl_weights.checkpoint import Checkpoint, open_checkpoint
from rl_weights.checksum import as_bytes
from rl_weights.hf import HFCheckpoint
from rl_weights.hf.fp8 import Unquantized, is_quantised
from rl_weights.torch_dist.as_hf import TorchDistAsHF
from rl_weights.torch_dist.names import is_of_model
from rl_weights.torch_dist.reader import TorchDistCheckpoint

_PIECE_ELEMENTS = 2**20
"""Of which differences are computed at a time: in float64 a tensor of a large model takes many times its own size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDiff:
    """A tensor that is not the same on both sides."""

    name: str
    what: str
    """What differs: dtype, shape, values, or the side on which it is missing."""
    max_abs: float | None = None
    """Largest absolute difference; None where values cannot be compared. NaN if one side alone has a NaN somewhere."""
    mean_abs: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDiff:
    """How two checkpoints differ."""

    num_equal: int
    """Tensors that are equal to the bit."""
    tensors: tuple[TensorDiff, ...]
    """The others."""

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.tensors


def diff_checkpoints(
    first: Path | str, second: Path | str, *, progress: Callable[[int, int], None] | None = None
) -> CheckpointDiff:
    """Compares the models' tensors to the bit. Optimizer state is left out.

    Where one is in Hugging Face format and the other is not, they are compared under the names of the former. Where one
    is in float8 with scales and the other is not, what the former stands for is compared.

    Args:
        first: a checkpoint of either format.
        second: another.
        progress: told, after each tensor, how many of how many are compared.

    Raises:
        CheckpointError: if one is damaged, or cannot be seen under the other's names.
    """
    left, right = open_checkpoint(first), open_checkpoint(second)
    return _diff(_seen_as(left, right), _seen_as(right, left), progress)


type _Tensors = Checkpoint | TorchDistAsHF | Unquantized


def _seen_as(checkpoint: Checkpoint, other: Checkpoint) -> _Tensors:
    if isinstance(checkpoint, TorchDistCheckpoint) and isinstance(other, HFCheckpoint):
        return TorchDistAsHF(checkpoint, other.config)
    if isinstance(checkpoint, HFCheckpoint) and is_quantised(checkpoint):
        return checkpoint if isinstance(other, HFCheckpoint) and is_quantised(other) else Unquantized(checkpoint)
    return checkpoint


def _diff(left: _Tensors, right: _Tensors, progress: Callable[[int, int], None] | None) -> CheckpointDiff:
    names = [name for name in dict.fromkeys([*left.specs, *right.specs]) if is_of_model(name)]
    found: list[TensorDiff] = []
    for index, name in enumerate(names):
        if name not in left.specs:
            found.append(TensorDiff(name=name, what="missing in the first"))
        elif name not in right.specs:
            found.append(TensorDiff(name=name, what="missing in the second"))
        elif (difference := _compare(name, left, right)) is not None:
            found.append(difference)
        if progress is not None:
            progress(index + 1, len(names))
    return CheckpointDiff(num_equal=len(names) - len(found), tensors=tuple(found))


def _compare(name: str, left: _Tensors, right: _Tensors) -> TensorDiff | None:
    (_, left_dtype, left_shape), (_, right_dtype, right_shape) = left.specs[name], right.specs[name]
    if left_shape != right_shape:
        return TensorDiff(name=name, what=f"shape {left_shape} and {right_shape}")
    first, second = left.read(name), right.read(name)
    if left_dtype == right_dtype and torch.equal(as_bytes(first), as_bytes(second)):
        return None
    max_abs, mean_abs = _distance(first, second)
    what = "values" if left_dtype == right_dtype else f"dtype {left_dtype} and {right_dtype}"
    return TensorDiff(name=name, what=what, max_abs=max_abs, mean_abs=mean_abs)


def _distance(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Maximum and mean of the absolute differences, in float64 piece by piece. NaN if one of them is; 0 of nothing."""
    largest, total = torch.zeros((), dtype=torch.float64), 0.0
    one, other = first.reshape(-1), second.reshape(-1)
    for start in range(0, one.numel(), _PIECE_ELEMENTS):
        piece = slice(start, start + _PIECE_ELEMENTS)
        distance = (one[piece].to(torch.float64) - other[piece].to(torch.float64)).abs_()
        largest = torch.maximum(largest, distance.max())
        total += distance.sum().item()
    return largest.item(), total / max(first.numel(), 1)
