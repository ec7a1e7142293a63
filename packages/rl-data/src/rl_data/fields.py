"""Fields of a row beside its messages, checked where they are read.

Parquet has one type for a whole column, so what differs from row to row is often stored there as JSON text: that is
read too.
"""

from collections.abc import Mapping, Sequence

import msgspec

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import check_tools, describe


def tools_field(row: Mapping[str, JsonValue], key: str) -> Sequence[Mapping[str, JsonValue]] | None:
    """Tool definitions under `key`; None where there are none.

    Raises:
        DataError: if the value is neither a list of objects nor JSON text of one.
    """
    return check_tools(_from_text(row.get(key), key=key), key=key)


def object_field(row: Mapping[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """The object under `key`; an empty one where there is none.

    Raises:
        DataError: if the value is neither an object nor JSON text of one.
    """
    value = _from_text(row.get(key), key=key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"key {key!r}: expected an object, found {describe(value)}")
    return value


def template_arguments(row: Mapping[str, JsonValue], key: str, common: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Variables of the chat template for a row: the common ones, over which go those under `key` that are not null.

    Raises:
        DataError: if the value is neither an object nor JSON text of one.
    """
    own = object_field(row, key)
    return {**common, **{name: value for name, value in own.items() if value is not None}}


def _from_text(value: JsonValue, *, key: str) -> JsonValue:
    """The value or, of text that begins like a JSON object or list, what it stands for."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise DataError(f"key {key!r}: not valid JSON: {error}: found {describe(value)}") from error
