"""Names of torch dtypes, as specs and files give them."""

import torch

from rl_weights.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip
"""Every dtype that a tensor in a checkpoint or a bucket may have, by its name without the prefix."""

SAFETENSORS_NAMES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
"""Name of each safetensors dtype in torch."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name without the prefix, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str, where: str) -> torch.dtype:
    """The torch dtype of that name.

    Raises:
        CheckpointError: naming `where`, if there is none.
    """
    if name not in DTYPES:
        raise CheckpointError(f"{where}: expected one of {', '.join(DTYPES)}, got dtype {name!r}")
    return DTYPES[name]


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that dtype (by name) and shape."""
    return DTYPES[dtype].itemsize * torch.Size(shape).numel()
