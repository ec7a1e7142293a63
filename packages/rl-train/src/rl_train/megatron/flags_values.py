"""Values of Megatron's namespace as JSON, and back: dtypes, enumerations and signals are written by name."""

import enum
import signal
from typing import cast

from rl_data.json import JsonValue

_DTYPE, _ENUM, _TUPLE = "$dtype", "$enum", "$tuple"


def to_json(name: str, value: object) -> JsonValue:
    """The value of `name` as JSON that `from_json` turns back.

    Raises:
        TypeError: for a type that no flag of this Megatron has.
    """
    if isinstance(value, enum.Enum):
        return {_ENUM: f"{type(value).__name__}.{value.name}"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [to_json(name, item) for item in cast("list[object]", value)]
    if isinstance(value, tuple):
        return {_TUPLE: [to_json(name, item) for item in cast("tuple[object, ...]", value)]}
    if type(value).__name__ == "dtype" and type(value).__module__ == "torch":
        return {_DTYPE: str(value).removeprefix("torch.")}
    raise TypeError(f"Megatron's {name}: a {type(value).__name__} cannot be written as JSON")


def from_json(value: JsonValue) -> object:
    """What `to_json` wrote. Imports torch or Megatron where one of their types comes up."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == _TUPLE:
        assert isinstance(content, list)
        return tuple(from_json(item) for item in content)
    assert isinstance(content, str)
    if tag == _DTYPE:
        import torch

        return vars(torch)[content]
    assert tag == _ENUM
    type_name, _, member = content.partition(".")
    return _enumeration(type_name)[member]


def _enumeration(name: str) -> type[enum.Enum]:
    if name == "Signals":
        return signal.Signals
    from megatron.core.transformer import enums

    return {"AttnBackend": enums.AttnBackend, "InferenceCudaGraphScope": enums.InferenceCudaGraphScope}[name]
