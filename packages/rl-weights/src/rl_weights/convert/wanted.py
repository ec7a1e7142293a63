"""What a conversion may be asked to do to the values of its tensors."""

from dataclasses import dataclass
from typing import Literal

import torch

from rl_weights.dtypes import dtype_named
from rl_weights.errors import CheckpointError
from rl_weights.protocols import TensorSpec

type FloatName = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedValues:
    """How tensors are to be written. Without wishes they stay as they are, to the bit."""

    dtype: FloatName | None = None
    """Floating-point tensors are cast to it."""
    require_finite: bool = False
    """Whether a NaN or an infinity is refused."""

    def spec(self, spec: TensorSpec) -> TensorSpec:
        """The spec that a tensor will have."""
        name, dtype, shape = spec
        is_cast = self.dtype is not None and dtype_named(dtype, name).is_floating_point
        return (name, self.dtype, shape) if is_cast and self.dtype is not None else spec

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as it is wanted.

        Raises:
            CheckpointError: naming it, if it has a NaN or an infinity that is refused, or a value too large to be cast.
        """
        if self.require_finite and (count := _num_not_finite(tensor)):
            raise CheckpointError(f"{name}: NaN or infinite values: {count}")
        if self.dtype is None or not tensor.is_floating_point():
            return tensor
        cast = tensor.to(dtype_named(self.dtype, name))
        if cast.dtype == torch.float16 != tensor.dtype and (count := _num_not_finite(cast) - _num_not_finite(tensor)):
            raise CheckpointError(f"{name}: values too large for {self.dtype}: {count}")
        return cast


def _num_not_finite(tensor: torch.Tensor) -> int:
    return tensor.numel() - int(torch.isfinite(tensor).sum()) if tensor.is_floating_point() else 0
