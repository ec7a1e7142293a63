"""The bytes by which two versions of a tensor differ: where they are, and what turns the one version into the other.

A delta of n changed elements is n gaps between their positions (uint32) and n differences (exclusive or, of the
elements' own width). Of both, all first bytes come first, then all second bytes, and so on: most are alike, so that
they compress. Applying a delta twice gives the first version again.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GAP_BYTES = 4
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def delta_bytes(num_changed: int, width: int) -> int:
    """Size of a delta of so many changed elements of that width."""
    return num_changed * (GAP_BYTES + width)


class Delta(NamedTuple):
    """What changed in one tensor."""

    num_changed: int
    content: bytes


def make_delta(before: NDArray[np.uint8], after: NDArray[np.uint8], width: int) -> Delta:
    """The difference of two versions.

    Args:
        before: bytes of the tensor; not necessarily aligned.
        after: as many.
        width: bytes of an element.
    """
    differences = np.bitwise_xor(_elements(before, width), _elements(after, width))
    positions = np.flatnonzero(differences)
    if positions.size == 0:
        return Delta(0, b"")
    gaps = np.diff(positions, prepend=0)
    if gaps.max() >= 2**32:
        raise ValueError(f"changed elements are {gaps.max()} apart, expected less than {2**32}")
    return Delta(positions.size, _planes(gaps.astype(np.uint32)) + _planes(differences[positions]))


def apply_delta(content: NDArray[np.uint8], delta: bytes, num_changed: int, width: int) -> None:
    """Turns the bytes of a tensor into its next version, in place.

    Args:
        content: bytes of the tensor, which may be written to; not necessarily aligned.
        delta: see `Delta.content`.
        num_changed: elements that it changes.
        width: bytes of an element.

    Raises:
        ValueError: if the delta is not one of so many elements of this tensor.
    """
    if len(delta) != (expected := delta_bytes(num_changed, width)):
        raise ValueError(f"{num_changed} changes take {expected} bytes, got {len(delta)}")
    border = num_changed * GAP_BYTES
    positions = np.cumsum(_from_planes(delta[:border], GAP_BYTES), dtype=np.int64)
    aligned = _aligned(content, width)
    elements = aligned.view(_UNSIGNED[width])
    if positions.size and positions[-1] >= elements.size:
        raise ValueError(f"a change at element {positions[-1]} of {elements.size}")
    elements[positions] ^= _from_planes(delta[border:], width)
    if aligned is not content:
        content[:] = aligned


def _elements(content: NDArray[np.uint8], width: int) -> NDArray[np.unsignedinteger]:
    return _aligned(content, width).view(_UNSIGNED[width])


def _aligned(content: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The bytes, or a copy where they do not begin where an element may."""
    return content if content.ctypes.data % width == 0 else content.copy()


def _planes(elements: NDArray[np.unsignedinteger]) -> bytes:
    return elements.view(np.uint8).reshape(elements.size, -1).T.tobytes()


def _from_planes(content: bytes, width: int) -> NDArray[np.unsignedinteger]:
    planes = np.frombuffer(content, np.uint8).reshape(width, -1)
    return np.ascontiguousarray(planes.T).view(_UNSIGNED[width]).reshape(-1)
