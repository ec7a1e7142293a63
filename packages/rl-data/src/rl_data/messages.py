"""Messages of a chat, checked where they are read."""

from collections.abc import Mapping, Sequence

from rl_data.errors import DataError
from rl_data.json import JsonValue

type Message = dict[str, JsonValue]
"""{"role": ..., "content": ...}, and whatever else the model's template reads, such as tool_calls."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
SPEAKERS: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}
"""Roles by the names that conversations of {"from", "value"} use."""


def require_key(row: Mapping[str, JsonValue], key: str) -> JsonValue:
    """The value of `key`.

    Raises:
        DataError: if the row has no such key; the message lists the keys it has.
    """
    if key not in row:
        raise DataError(f"expected key {key!r}, found keys {sorted(row)}")
    return row[key]


def check_messages(value: JsonValue, *, key: str) -> list[Message]:
    """The value of `key` as messages, each with a known role and text.

    A field that is null counts as none, for tables have every field in every message.

    Raises:
        DataError: naming the first message that is not well-formed.
    """
    messages: list[Message] = []
    for number, message in enumerate(_check_list(value, key=key)):
        where = f"key {key!r}, message {number}"
        if not isinstance(message, dict) or "role" not in message:
            raise DataError(f"{where}: expected an object with role and content, found {describe(message)}")
        role = message["role"]
        if role not in ROLES:
            raise DataError(f"{where}: expected a role of {sorted(ROLES)}, found {describe(role)}")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            found = "none" if "content" not in message else describe(content)
            raise DataError(f"{where} ({role}): expected content as text, found {found}")
        given = {name: value for name, value in message.items() if value is not None}
        # Some templates look for strings in the content of every answer, and fail on a null.
        messages.append({**given, "content": content or ""})
    return messages


def check_turns(value: JsonValue, *, key: str) -> list[Message]:
    """Turns of {"from", "value"}, as in OpenHermes, as messages: human is the user, gpt the assistant.

    Raises:
        DataError: naming the first turn that is not well-formed.
    """
    messages: list[Message] = []
    for number, turn in enumerate(_check_list(value, key=key)):
        where = f"key {key!r}, turn {number}"
        if not isinstance(turn, dict) or "from" not in turn:
            raise DataError(f"{where}: expected an object with from and value, found {describe(turn)}")
        speaker, text = turn["from"], turn.get("value")
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise DataError(f"{where}: expected a speaker of {sorted(SPEAKERS)}, found {describe(speaker)}")
        if not isinstance(text, str):
            raise DataError(f"{where} ({speaker}): expected value as text, found {describe(text)}")
        messages.append({"role": SPEAKERS[speaker], "content": text})
    return messages


def has_turns(value: JsonValue) -> bool:
    """Whether messages are written as {"from", "value"}, judged by the first."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "from" in value[0]


def check_tools(value: JsonValue, *, key: str) -> Sequence[Mapping[str, JsonValue]] | None:
    """The value of `key` as tool definitions; None where it is null or an empty list.

    Raises:
        DataError: if it is anything else than a list of objects.
    """
    if value is None or value == []:
        return None
    tools = [tool for tool in value if isinstance(tool, dict)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(tools) != len(value):
        raise DataError(f"key {key!r}: expected a list of tool definitions, found {describe(value)}")
    return tools


def describe(value: JsonValue) -> str:
    """How messages name a value that is not what was expected: its type and, cut where it is long, itself."""
    if value is None:
        return "null"
    shown = repr(value)
    name = {"dict": "object", "str": "text"}.get(type(value).__name__, type(value).__name__)
    return f"{name} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _check_list(value: JsonValue, *, key: str) -> list[JsonValue]:
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else describe(value)
        raise DataError(f"key {key!r}: expected a list of messages, found {found}")
    return value
