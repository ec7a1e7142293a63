"""A rectangular part of a tensor."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Box:
    """Where a part of a tensor starts, and its shape; equally long."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> "Box":
        """All of a tensor of that shape."""
        return cls((0,) * len(shape), shape)

    def moved(self, dim: int, by: int) -> "Box":
        """The box that starts so much further along a dimension."""
        return Box((*self.offset[:dim], self.offset[dim] + by, *self.offset[dim + 1 :]), self.shape)

    def split(self, dim: int, count: int) -> "tuple[Box, ...]":
        """Equal parts along a dimension, which must be divisible."""
        step = self.shape[dim] // count
        part = Box(self.offset, (*self.shape[:dim], step, *self.shape[dim + 1 :]))
        return tuple(part.moved(dim, number * step) for number in range(count))

    def overlap(self, other: "Box") -> "Box | None":
        """What lies in both; None if nothing does."""
        starts = tuple(max(one, two) for one, two in zip(self.offset, other.offset, strict=True))
        stops = tuple(
            min(one + size, two + other_size)
            for one, size, two, other_size in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        )
        shape = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return None if any(size < 1 for size in shape) else Box(starts, shape)

    def within(self, other: "Box") -> "Box":
        """The same part, counted from the start of another one in which it lies."""
        return Box(tuple(one - two for one, two in zip(self.offset, other.offset, strict=True)), self.shape)

    def of(self, tensor: "Tensor") -> "Tensor":
        """That part of a tensor; shares its memory."""
        return tensor[tuple(slice(start, start + size) for start, size in zip(self.offset, self.shape, strict=True))]
