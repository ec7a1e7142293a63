"""Names of torch dtypes, as specs and files give them. Torch itself is imported by what returns a dtype."""

import math
from typing import TYPE_CHECKING

from rl_weights.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_ITEM_BYTES: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Every dtype that a tensor in a checkpoint or a bucket may have, by its name without the prefix."""

SAFETENSORS_NAMES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
"""Name of each safetensors dtype in torch."""


def dtype_name(dtype: "torch.dtype") -> str:
    """The name without the prefix, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def check_dtype(name: str, where: str) -> None:
    """Checks that a tensor may have the dtype of that name.

    Raises:
        CheckpointError: naming `where`, if not.
    """
    if name not in _ITEM_BYTES:
        raise CheckpointError(f"{where}: expected one of {', '.join(_ITEM_BYTES)}, got dtype {name!r}")


def dtype_named(name: str, where: str) -> "torch.dtype":
    """The torch dtype of that name.

    Raises:
        CheckpointError: naming `where`, if there is none.
    """
    import torch

    check_dtype(name, where)
    return vars(torch)[name]


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that dtype (by name) and shape."""
    return _ITEM_BYTES[dtype] * math.prod(shape)
