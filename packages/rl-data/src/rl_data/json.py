"""The type of a JSON value, for fields that carry a user's own data."""

type JsonValue = bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None
