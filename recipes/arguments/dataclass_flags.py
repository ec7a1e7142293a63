"""Command-line flags generated from frozen dataclasses, and instances of them from given flags."""

import dataclasses
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import EnumType
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAliasType, Union, cast, get_args, get_origin, get_type_hints

from recipes.arguments.sources import Given
from recipes.arguments.usage import is_usage_error
from recipes.errors import UsageError
from rl_data.json import JsonValue


class Reader(NamedTuple):
    """How the words after a flag become its value."""

    convert: Callable[[str], Any]
    """Raises ValueError for a word that it cannot take."""
    expected: str
    """What it takes, for help and messages."""
    choices: tuple[Any, ...] = ()
    is_list: bool = False


class OwnFlag(NamedTuple):
    """One flag and the field that it fills."""

    name: str
    """With its dashes."""
    field: str
    help: str
    default: Any
    """`dataclasses.MISSING` where the flag is required."""
    reader: Reader | None
    """None for a switch, which stands alone."""
    switched_to: bool = True
    """The field's value where a switch is given."""

    @property
    def is_required(self) -> bool:
        """Whether the field has no default."""
        return self.default is dataclasses.MISSING

    def value(self, words: Sequence[str]) -> Any:
        """The field's value for the words after the flag.

        Raises:
            UsageError: saying what was expected.
        """
        if self.reader is None:
            if words:
                raise UsageError(f"{self.name}: it takes no value, got {' '.join(words)}")
            return self.switched_to
        if not words or (len(words) > 1 and not self.reader.is_list):
            number = "at least one value" if self.reader.is_list else "one value"
            raise UsageError(f"{self.name}: expected {number}, got {' '.join(words) or 'none'}")
        values = tuple(self._convert(self.reader, word) for word in words)
        return values if self.reader.is_list else values[0]

    def _convert(self, reader: Reader, word: str) -> Any:
        try:
            value = reader.convert(word)
        except ValueError:
            value = None
        if value is None or (reader.choices and value not in reader.choices):
            raise UsageError(f"{self.name} {word}: expected {reader.expected}")
        return value


@lru_cache
def flags_of(config: type) -> tuple[OwnFlag, ...]:
    """The flags of a dataclass: one per field, named as the field with dashes, or as metadata["flag"].

    Types: int, float, str, Path, a StrEnum, a Literal, `X | None`, `tuple[X, ...]` (several words), also where one X
    may stand for it (`X | tuple[X, ...]`), a dict (a JSON object) and bool. A bool that is False by default is set by
    its flag; one that is True by default needs metadata["flag"], a flag that unsets it; `bool | None`, None by
    default, has a flag and one with `--no-`.
    """
    hints = get_type_hints(config)
    return tuple(flag for field in dataclasses.fields(config) for flag in _flags_of(config, field, hints[field.name]))


def _flags_of(config: type, field: "dataclasses.Field[Any]", hint: Any) -> tuple[OwnFlag, ...]:
    flag = _flag_of(config, field, hint)
    if flag.reader is not None or flag.default is not None:
        return (flag,)
    opposite = flag._replace(name="--no-" + flag.name[2:], help=f"the opposite of {flag.name}", switched_to=False)
    return flag, opposite


def _flag_of(config: type, field: "dataclasses.Field[Any]", hint: Any) -> OwnFlag:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    inner = _without_none(_unaliased(hint))
    if default is True and "flag" not in field.metadata:
        raise TypeError(f"{config.__name__}.{field.name}: a field that is True by default needs metadata['flag']")
    return OwnFlag(
        name=field.metadata.get("flag", "--" + field.name.replace("_", "-")),
        field=field.name,
        help=field.metadata["help"],
        default=default,
        reader=None if inner is bool else _reader_of(inner),
        switched_to=default is not True,
    )


def _reader_of(hint: Any) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal or isinstance(hint, EnumType):
        choices: tuple[Any, ...] = arguments or tuple(cast("Iterator[Any]", iter(hint)))
        return Reader(
            cast("Callable[[str], Any]", type(choices[0])),
            f"one of {', '.join(str(choice) for choice in choices)}",
            choices,
        )
    if origin is tuple:
        return _reader_of(_unaliased(arguments[0]))._replace(is_list=True)
    if origin in (dict, Mapping):
        return Reader(_json_object, "a JSON object")
    expected = {int: "a whole number", float: "a number"}.get(hint, "text")
    return Reader(hint, expected)


def _json_object(text: str) -> dict[str, JsonValue]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return cast("dict[str, JsonValue]", value)


def _unaliased(hint: Any) -> Any:
    return _unaliased(hint.__value__) if isinstance(hint, TypeAliasType) else hint


def _without_none(hint: Any) -> Any:
    """What a flag's words become: not None, and a tuple where one value may stand for a tuple of one."""
    if get_origin(hint) not in (types.UnionType, Union):
        return hint
    inner = [argument for argument in get_args(hint) if argument is not types.NoneType]
    if len(inner) > 1:
        inner = [argument for argument in inner if get_origin(argument) is tuple]
    (only,) = inner
    return _unaliased(only)


def instances(configs: Sequence[type], given: Mapping[str, Given]) -> dict[type, Any]:
    """One instance of each dataclass. A flag whose field several of them have goes to each.

    Raises:
        UsageError: for bad values, required flags that are missing, and what the dataclasses refuse, all together.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    known = {flag.name: flag for config in configs for flag in flags_of(config)}
    # In the order in which they were given: of a flag and its opposite the later one wins.
    for flag, one in ((known[name], one) for name, one in given.items() if name in known):
        try:
            values[flag.field] = flag.value(one.values)
        except UsageError as error:
            problems.append(str(error))
    missing = (flag for config in configs for flag in flags_of(config) if flag.is_required and flag.name not in given)
    problems += [f"{flag.name} is missing: {flag.help}" for flag in missing]
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    made: dict[type, Any] = {}
    for config in configs:
        try:
            made[config] = config(
                **{flag.field: values[flag.field] for flag in flags_of(config) if flag.field in values}
            )
        except UsageError as error:
            problems.append(str(error))
        except ValueError as error:
            if not is_usage_error(error):
                raise
            problems.append(by_flag(config, str(error)))
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return made


def by_flag(config: type, message: str) -> str:
    """A library's message with the fields that it names as the flags that the user knows.

    Libraries say `rollout_top_p 1.5: expected a number in (0, 1]`, name first. Of a switch the value goes too: what
    `rewards_normalization False` is to the library is `--disable-rewards-normalization` to the user.
    """
    flags: dict[str, list[OwnFlag]] = {}
    for flag in flags_of(config):
        flags.setdefault(flag.field, []).append(flag)
    names = "|".join(flags)

    def flag_of(match: re.Match[str]) -> str:
        first = flags[match["field"]][0]
        if first.reader is not None:
            return first.name + match["value"]
        fitting = (flag.name for flag in flags[match["field"]] if match["value"] == f" {flag.switched_to}")
        return next(fitting, first.name)

    return re.sub(rf"(?<![\w-])(?P<field>{names})(?![\w-])(?P<value>(?: True| False)?)", flag_of, message)
