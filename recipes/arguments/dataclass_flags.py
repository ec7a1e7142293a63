"""Command-line flags generated from frozen dataclasses, and instances of them from parsed words."""

import argparse
import dataclasses
import json
import types
from collections.abc import Callable, Mapping, Sequence
from enum import EnumType
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn, TypeAliasType, Union, cast, get_args, get_origin, get_type_hints

from recipes.errors import UsageError
from rl_data.json import JsonValue


class OwnFlag(NamedTuple):
    """One flag and the field that it fills."""

    name: str
    """With its dashes."""
    field: str
    is_required: bool
    default: Any
    """`dataclasses.MISSING` where it is required."""
    options: Mapping[str, Any]
    """Keyword arguments of `ArgumentParser.add_argument`."""

    @property
    def is_switch(self) -> bool:
        """Whether it stands alone, without a value."""
        return "action" in self.options


@lru_cache
def flags_of(config: type) -> tuple[OwnFlag, ...]:
    """The flags of a dataclass: one per field, named as the field with dashes, or as metadata["flag"].

    Types: int, float, str, Path, a StrEnum, a Literal, `X | None`, `tuple[X, ...]` (several words), a dict (a JSON
    object) and bool. A bool that is False by default is set by its flag; one that is True by default needs
    metadata["flag"], a flag that unsets it.
    """
    hints = get_type_hints(config)
    return tuple(_flag_of(config, field, hints[field.name]) for field in dataclasses.fields(config))


def _flag_of(config: type, field: "dataclasses.Field[Any]", hint: Any) -> OwnFlag:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    name = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    options = _options_of(_without_none(_unaliased(hint)), default)
    if default is True and "flag" not in field.metadata:
        raise TypeError(f"{config.__name__}.{field.name}: a field that is True by default needs metadata['flag']")
    help_text = field.metadata["help"]
    if default not in (dataclasses.MISSING, None, False, True, (), "") and default != {}:
        help_text += f" (default: {default})"
    options |= {"help": help_text.replace("%", "%%"), "dest": field.name, "default": argparse.SUPPRESS}
    return OwnFlag(name, field.name, default is dataclasses.MISSING, default, options)


def _options_of(hint: Any, default: Any) -> dict[str, Any]:
    if hint is bool:
        return {"action": "store_false" if default is True else "store_true"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"type": type(arguments[0]), "choices": arguments}
    if isinstance(hint, EnumType):
        return {"type": hint, "choices": tuple(hint), "metavar": "{" + ",".join(str(item) for item in hint) + "}"}
    if origin is tuple:
        return {**_options_of(arguments[0], None), "nargs": "+"}
    if origin in (dict, Mapping):
        return {"type": _json_object, "metavar": "JSON"}
    return {"type": cast("Callable[[str], object]", hint), "metavar": hint.__name__.upper()}


def _json_object(text: str) -> dict[str, JsonValue]:
    """What the text says, for argparse."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return cast("dict[str, JsonValue]", value)


def _unaliased(hint: Any) -> Any:
    return _unaliased(hint.__value__) if isinstance(hint, TypeAliasType) else hint


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (types.UnionType, Union):
        return hint
    (inner,) = (argument for argument in get_args(hint) if argument is not types.NoneType)
    return _unaliased(inner)


class OwnParser(argparse.ArgumentParser):
    """A parser of the dataclasses' flags, one group each. Raises UsageError where argparse would print and exit."""

    def __init__(self, configs: Sequence[type], **options: Any) -> None:
        super().__init__(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS, **options)
        added: set[str] = set()
        for config in configs:
            group = self.add_argument_group((config.__doc__ or config.__name__).partition("\n")[0])
            for flag in flags_of(config):
                if flag.name not in added:  # a setting that two configurations share has one flag
                    group.add_argument(flag.name, **flag.options)
                    added.add(flag.name)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, the flag first."""
        raise UsageError(message.removeprefix("argument "))


def instances(configs: Sequence[type], words: Sequence[str]) -> dict[type, Any]:
    """One instance of each dataclass from the words of the command line.

    Raises:
        UsageError: for a bad value or a flag that is required and missing; what the dataclasses raise passes through.
    """
    given = vars(OwnParser(configs).parse_args(list(words)))
    missing = {
        flag.name: flag.options["help"]
        for config in configs
        for flag in flags_of(config)
        if flag.is_required and flag.field not in given
    }
    if missing:
        raise UsageError("\n".join(f"{name} is missing: {help_text}" for name, help_text in missing.items()))
    values = {
        name: tuple(cast("list[object]", value)) if isinstance(value, list) else value for name, value in given.items()
    }
    return {
        config: config(**{flag.field: values[flag.field] for flag in flags_of(config) if flag.field in values})
        for config in configs
    }
