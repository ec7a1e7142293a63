"""The resolved configuration of a run as YAML that --config reads again."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from recipes.arguments.dataclass_flags import flags_of
from recipes.arguments.parse import ParsedArguments
from recipes.arguments.sources import from_command_line

# Controls, line separators, the byte order mark, and halves of pairs, which stand for bytes that are no UTF-8.
_NOT_IN_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def resolved_yaml(parsed: ParsedArguments) -> str:
    """Every flag of ours with its value, defaults included, and the flags that Megatron and SGLang were given.

    The first line is a comment with the recipe and its presets.

    Fields with metadata {"saved": False} are left out, such as --resume: they say how to start, not what to run.
    A setting that two configurations share stands once.
    """
    seen: set[str] = set()
    sections: list[tuple[str, dict[str, str]]] = []
    for config, instance in parsed.own.items():
        values = {name: text for name, text in _own_values(config, instance).items() if name not in seen}
        seen |= values.keys()
        sections.append(((config.__doc__ or config.__name__).partition("\n")[0].rstrip("."), values))
    sections.append(("Megatron", _foreign_values(parsed.megatron_argv)))
    sections.append(("SGLang", _foreign_values(parsed.sglang_argv)))
    return f"# {parsed.title}\n\n" + "\n".join(
        "\n".join([f"# {title}", *(f"{name}: {text}" for name, text in values.items()), ""])
        for title, values in sections
        if values
    )


def _own_values(config: type, instance: Any) -> dict[str, str]:
    is_saved = {field.name: field.metadata.get("saved", True) for field in dataclasses.fields(config)}
    values: dict[str, str] = {}
    for flag in flags_of(config):
        value = getattr(instance, flag.field)
        if value is None or not is_saved[flag.field]:
            continue
        if flag.reader is None and not flag.switched_to:
            value = not value
        values[flag.name[2:]] = _quoted(_plain(value))
    return values


def _plain(value: object) -> object:
    """The value in JSON's types, which are YAML's too."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    return str(value)


def _foreign_values(argv: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for given in from_command_line(argv):
        words = [_word(word) for word in given.values]
        values[given.flag[2:]] = "true" if not words else words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    return values


def _word(word: str) -> str:
    """A number as it was typed, anything else in quotes, so that it comes back as the same word."""
    try:
        float(word)
    except ValueError:
        return _quoted(word)
    return word


def _quoted(value: object) -> str:
    """As JSON that is YAML too, which reads no surrogate pairs and takes some characters only escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
