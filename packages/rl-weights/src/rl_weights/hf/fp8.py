"""Model folders whose weights are float8 with a scale for each block, seen as if they had never been quantised."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rl_weights.errors import CheckpointError
from rl_weights.hf.reader import HFCheckpoint
from rl_weights.json_value import JsonValue

if TYPE_CHECKING:
    import torch

    from rl_weights.protocols import TensorSpec

_SCALE_SUFFIX = "_scale_inv"
_QUANTISED = ("float8_e4m3fn", "float8_e5m2")
_DEFAULT_DTYPE = "bfloat16"
_FLOATS = ("bfloat16", "float16", "float32")
"""What weights in float8 may become."""


def is_quantised(folder: HFCheckpoint) -> bool:
    """Whether a tensor of the folder is float8 and stands beside its scales."""
    return any(dtype in _QUANTISED and name + _SCALE_SUFFIX in folder.specs for name, dtype, _ in folder.specs.values())


class Unquantized:
    """The tensors of a folder, those in float8 as the dtype that config.json names. Others are handed on as they are.

    A weight [N, K] of float8 stands beside `NAME_scale_inv` [ceil(N / block rows), ceil(K / block columns)], by which
    each of its blocks is multiplied in float32; the product is rounded once.

    Args:
        folder: of a model.

    Raises:
        CheckpointError: for another kind of quantisation, a float8 tensor without its scales, or a dtype in config.json
            that float8 weights cannot become.
    """

    def __init__(self, folder: HFCheckpoint) -> None:
        self._folder = folder
        self.path: Path = folder.path
        self.files: dict[str, Path] = folder.files
        self.config: Mapping[str, JsonValue] = folder.config
        self._block = _block_size(self.config)
        self._dtype = _full_dtype(self.config) if any(map(self._is_quantised, folder.specs)) else _DEFAULT_DTYPE
        self.specs: dict[str, TensorSpec] = {
            name: (name, self._dtype if self._is_quantised(name) else stored, shape)
            for name, stored, shape in folder.specs.values()
            if self._block is None or not name.endswith(_SCALE_SUFFIX)
        }
        """Name, dtype and shape of every tensor but the scales."""
        for name in self.specs:
            if self._is_quantised(name):
                self._check_scales(name)

    def read(self, name: str) -> "torch.Tensor":
        """The tensor of that name, which must be one of `specs`.

        Raises:
            CheckpointError: naming the file, if it is damaged.
        """
        tensor = self._folder.read(name)
        if not self._is_quantised(name):
            return tensor
        assert self._block is not None
        return dequantized(tensor, self._folder.read(name + _SCALE_SUFFIX), self._block, self._dtype, name)

    def _is_quantised(self, name: str) -> bool:
        return self._folder.specs[name][1] in _QUANTISED

    def _check_scales(self, name: str) -> None:
        where = f"{self.files[name]}: {name} is float8"
        if self._block is None:
            raise CheckpointError(f"{where}, but config.json has no quantization_config")
        scales = self._folder.specs.get(name + _SCALE_SUFFIX)
        if scales is None:
            raise CheckpointError(f"{where}, but there is no {name}{_SCALE_SUFFIX}")
        shape = self._folder.specs[name][2]
        expected = tuple(-(-size // step) for size, step in zip(shape, self._block, strict=False))
        if len(shape) != 2 or scales[2] != expected:
            raise CheckpointError(f"{where} of shape {shape}: expected scales of shape {expected}, got {scales[2]}")


def dequantized(
    weight: "torch.Tensor", scales: "torch.Tensor", block: tuple[int, int], dtype: str, name: str
) -> "torch.Tensor":
    """The weight [N, K] times the scale of each block, rounded once to `dtype`. Holds a row of blocks in float32."""
    import torch

    from rl_weights.dtypes import dtype_named

    result = torch.empty(weight.shape, dtype=dtype_named(dtype, name))
    rows, columns = block
    for number, scale in enumerate(scales.float()):
        part = slice(number * rows, (number + 1) * rows)
        of_columns = scale.repeat_interleave(columns)[: weight.shape[1]]
        result[part] = (weight[part].float() * of_columns).to(result.dtype)
    return result


def _full_dtype(config: Mapping[str, JsonValue]) -> str:
    key = "dtype" if "dtype" in config else "torch_dtype"
    dtype = config.get(key)
    if dtype is None:
        return _DEFAULT_DTYPE
    if not isinstance(dtype, str) or dtype not in _FLOATS:
        raise CheckpointError(
            f"config.json: {key}: expected one of {', '.join(_FLOATS)} for the float8 weights to become, got {dtype!r}"
        )
    return dtype


def _block_size(config: Mapping[str, JsonValue]) -> tuple[int, int] | None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    block = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
    if method != "fp8" or not isinstance(block, list) or len(block) != 2:
        raise CheckpointError(
            f"config.json: quantization_config: expected quant_method fp8 with a weight_block_size of two numbers, "
            f"got {method!r} with {block!r}"
        )
    rows, columns = block
    if type(rows) is not int or type(columns) is not int or min(rows, columns) < 1:
        raise CheckpointError(f"config.json: weight_block_size: expected two positive integers, got {block!r}")
    return rows, columns
