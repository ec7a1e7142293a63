"""Bookkeeping of one weight update on the engine's side. Knows nothing of how the tensors are loaded."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from rl_rollout.errors import EngineError

type TensorSpec = tuple[str, str, tuple[int, ...]]
"""(Hugging Face name, torch dtype without the prefix such as "bfloat16", shape)."""

_BYTES_OF_DTYPE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip

_ALIGNMENT = 16

# A tied model has no output layer of its own; senders may give it or not.
_OPTIONAL_NAMES = frozenset({"lm_head.weight"})


LANES = 4096
"""Columns of the matrix of 64-bit integers as which a bucket is read for its checksum."""


def checksum(buffer: NDArray[np.uint8]) -> str:
    """The checksum of a bucket ([bytes] uint8); the same as `rl_weights.bucket_checksum`.

    XXH3 (64 bit, in hexadecimal) of the sums of the columns and of the rows, modulo 2**64, of what is left over after
    the last row, and of the number of bytes. A GPU finds these sums fast.
    """
    num_in_rows = buffer.size // (8 * LANES) * (8 * LANES)
    rows = buffer[:num_in_rows].view(np.int64).reshape(-1, LANES)
    return checksum_of_sums(rows.sum(0), rows.sum(1), buffer[num_in_rows:], buffer.size)


def checksum_of_sums(
    columns: NDArray[np.int64], rows: NDArray[np.int64], rest: NDArray[np.uint8], num_bytes: int
) -> str:
    """The last step of `checksum`, for those who find the sums by other means.

    Args:
        columns: [LANES] sums over the rows.
        rows: [rows] sums over the columns.
        rest: what is left over after the last row.
        num_bytes: of the bucket.
    """
    digest = xxhash.xxh3_64()
    for part in (columns, rows, rest):
        digest.update(memoryview(np.ascontiguousarray(part)))
    digest.update(num_bytes.to_bytes(8, "little"))
    return digest.hexdigest()


def flat_bytes(buffer: object) -> NDArray[np.uint8]:
    """The buffer (numpy array or CPU tensor, [bytes] uint8) as a contiguous numpy array, without a copy if it is one.

    Raises:
        EngineError: if it is of another type or shape.
    """
    array = np.asarray(buffer)
    if array.dtype != np.uint8 or array.ndim != 1:
        raise EngineError(f"weight bucket: expected a flat uint8 buffer, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array)


def require_checksum(where: str, buffer: NDArray[np.uint8], expected: str) -> None:
    """Does nothing if the bucket has the checksum.

    Raises:
        EngineError: with both, after `where`.
    """
    if (actual := checksum(buffer)) != expected:
        raise EngineError(f"{where}: expected checksum {expected}, got {actual}")


def num_bytes_of(spec: TensorSpec) -> int:
    """Bytes of a tensor.

    Raises:
        EngineError: naming it, if its dtype is none that weights have.
    """
    name, dtype, shape = spec
    if dtype not in _BYTES_OF_DTYPE:
        raise EngineError(f"{name} has dtype {dtype!r}, expected one of {sorted(_BYTES_OF_DTYPE)}")
    return _BYTES_OF_DTYPE[dtype] * int(np.prod(shape, dtype=np.int64))


def aligned_places(specs: Sequence[TensorSpec]) -> list[tuple[int, int]]:
    """First byte of each tensor and the one after its last, in a file where every tensor begins aligned."""
    places: list[tuple[int, int]] = []
    start = 0
    for spec in specs:
        places.append((start, start + num_bytes_of(spec)))
        start = -(-places[-1][1] // _ALIGNMENT) * _ALIGNMENT
    return places


class IncomingWeights:
    """The tensors of one version as they come in.

    Args:
        who: name of the engine, for messages.
        version: what will be served.
        expected: shape of every tensor by its name; None if the engine does not know its model's tensors.
    """

    def __init__(self, who: str, version: int, expected: Mapping[str, tuple[int, ...]] | None) -> None:
        self._who = who
        self._version = version
        self._expected = expected
        self._received: set[str] = set()
        self._num_buckets = 0

    def check(self, specs: Sequence[TensorSpec], num_bytes: int) -> str:
        """What to call this bucket in messages, if it may be loaded. Its checksum is for the caller to compare.

        Raises:
            EngineError: naming the bucket, if its size, a name or a shape is wrong or a tensor came twice.
        """
        where = (
            f"{self._who}: bucket {self._num_buckets} of version {self._version} (from {specs[0][0] if specs else '-'})"
        )
        try:
            expected_bytes = sum(map(num_bytes_of, specs))
        except EngineError as error:
            raise EngineError(f"{where}: {error}") from None
        if expected_bytes != num_bytes:
            raise EngineError(f"{where}: {len(specs)} tensors take {expected_bytes} bytes, got {num_bytes}")
        names: set[str] = set()
        for name, _, shape in specs:
            if name in self._received or name in names:
                raise EngineError(f"{where}: tensor {name} came twice")
            names.add(name)
            self._check_shape(where, name, tuple(shape))
        return where

    def add(self, specs: Sequence[TensorSpec]) -> None:
        """Counts a bucket that was checked and has been loaded."""
        self._received.update(name for name, _, _ in specs)
        self._num_buckets += 1

    def _check_shape(self, where: str, name: str, shape: tuple[int, ...]) -> None:
        if self._expected is None or name in _OPTIONAL_NAMES:
            return
        if name not in self._expected:
            raise EngineError(f"{where}: the engine's model has no tensor {name}")
        if shape != self._expected[name]:
            raise EngineError(f"{where}: {name} has shape {shape}, expected {self._expected[name]}")

    def finish(self, version: int, num_tensors: int) -> None:
        """Checks that everything has come.

        Raises:
            EngineError: if the version, the number of tensors or the set of names is another than announced.
        """
        where = f"{self._who}: version {self._version}"
        if version != self._version:
            raise EngineError(f"{where}: the update that ends is of version {version}")
        if len(self._received) != num_tensors:
            raise EngineError(f"{where}: expected {num_tensors} tensors, got {len(self._received)}")
        missing = sorted(set(self._expected or ()) - self._received - _OPTIONAL_NAMES)
        if missing:
            raise EngineError(f"{where}: {len(missing)} tensors did not come: {', '.join(missing[:5])}")


def checkpoint_shapes(model_path: Path) -> dict[str, tuple[int, ...]] | None:
    """Shape of every tensor in the folder's safetensors files, from their headers; None if there are none.

    Where an index says which files and tensors are the model's, others in the folder do not count.
    """
    index = model_path / "model.safetensors.index.json"
    weight_map: dict[str, str] | None = json.loads(index.read_text())["weight_map"] if index.exists() else None
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(model_path.glob("*.safetensors")):
        if weight_map is not None and path.name not in weight_map.values():
            continue
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    if weight_map is not None:
        shapes = {name: shape for name, shape in shapes.items() if name in weight_map}
    return shapes or None
