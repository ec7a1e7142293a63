"""The type of what a JSON file holds."""

type JsonValue = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
