"""Flags from a YAML file or from the command line, before anyone has asked what they mean.

A file holds one mapping from flags without their dashes to values:

    tensor-model-parallel-size: 2
    bf16: true                      # a flag without a value; null takes back what a preset set, and so does false
    offload-train: false            # --no-offload-train, where there is such a flag
    rollout-stop: ["\\n\\n", "END"]   # a flag with several values
    apply-chat-template-kwargs: {enable_thinking: false}
"""

import difflib
import json
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import NamedTuple, cast

import yaml

from recipes.errors import UsageError


class Given(NamedTuple):
    """One flag with its values."""

    flag: str
    """With its dashes."""
    values: tuple[str, ...]
    origin: str
    """Where it was given, for messages: "" for the command line, "FILE:LINE" for a file."""
    is_off: bool = False
    """A file's `false` or `null`: as if the flag were not given."""
    is_false: bool = False
    """A file's `false`."""

    def located(self, message: str) -> str:
        """The message, with file and line in front if the flag was given in a file."""
        return f"{self.origin}: {message}" if self.origin else message

    @property
    def words(self) -> list[str]:
        """As on the command line. A value that looks like a flag is joined to its flag."""
        if len(self.values) == 1 and self.values[0].startswith("-"):
            return [f"{self.flag}={self.values[0]}"]
        return [self.flag, *self.values]


def from_command_line(words: Sequence[str]) -> list[Given]:
    """The words, split into flags with their values: what follows a flag up to the next one belongs to it.

    Raises:
        UsageError: if a word stands before the first flag.
    """
    found: list[Given] = []
    for word in words:
        if word.startswith("--") and word != "--":
            flag, equals, value = word.partition("=")
            found.append(Given(flag, (value,) if equals else (), ""))
        elif found and word != "--":
            found[-1] = found[-1]._replace(values=(*found[-1].values, word))
        else:
            raise UsageError(f"expected a flag such as --config FILE, got {word!r}")
    return found


def from_file(path: Path) -> list[Given]:
    """The flags of a YAML file.

    Raises:
        UsageError: with file and line, if it is missing, no YAML, no mapping of flags to values, or repeats a flag.
    """
    root = _compose(path)
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:{root.start_mark.line + 1}: expected lines of the form `flag: value`")
    found = [_from_node(path, key, value) for key, value in root.value]
    seen: dict[str, str] = {}
    for given in found:
        if given.flag in seen:
            raise UsageError(f"{given.origin}: {given.flag[2:]} stands a second time, first at {seen[given.flag]}")
        seen[given.flag] = given.origin
    return found


def _compose(path: Path) -> yaml.Node | None:
    """The file's only document as nodes, which know their lines."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        return loader.get_single_node()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UsageError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error


def _from_node(path: Path, key: yaml.Node, value: yaml.Node) -> Given:
    origin = f"{path}:{key.start_mark.line + 1}"
    if not isinstance(key, yaml.ScalarNode) or not key.value or key.value.startswith("-"):
        raise UsageError(f"{origin}: expected the name of a flag, without dashes")
    flag = "--" + key.value
    if isinstance(value, yaml.ScalarNode):
        # Only `true`, `false` and `null` are read as more than text, so that `no` and `1e-6` stay what they are.
        is_plain = value.style is None
        text = value.value.lower()
        if is_plain and text in ("true", "false", "null", "~", ""):
            return Given(flag, (), origin, is_off=text != "true", is_false=text == "false")
        return Given(flag, (value.value,), origin)
    if isinstance(value, yaml.MappingNode):
        return Given(flag, (json.dumps(_object(path, value)),), origin)
    assert isinstance(value, yaml.SequenceNode)
    if not value.value:
        return Given(flag, (), origin, is_off=True)
    if not all(isinstance(item, yaml.ScalarNode) for item in value.value):
        raise UsageError(f"{origin}: {key.value}: expected a list of plain values")
    return Given(flag, tuple(item.value for item in value.value), origin)


def _object(path: Path, node: yaml.Node) -> object:
    """The value of a nested node."""
    try:
        return cast("object", yaml.constructor.SafeConstructor().construct_document(node))  # pyright: ignore[reportUnknownMemberType]
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{path}:{node.start_mark.line + 1}: not valid YAML: {error.problem}") from error


def preset_path(name: str, presets: Path) -> Path:
    """The file of a preset.

    Raises:
        UsageError: with the nearest names, if there is none.
    """
    names = sorted(path.stem for path in presets.glob("*.yaml"))
    if name in names:
        return presets / f"{name}.yaml"
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    found = f"the nearest: {', '.join(near)}" if near else f"there are {', '.join(names)}"
    raise UsageError(f"--preset {name}: there is no such preset; {found}")


def switched_off(given: Given, names: Set[str]) -> Given:
    """A file's `false` for a flag that has an opposite with `--no-` among the names is that opposite."""
    opposite = "--no-" + given.flag[2:]
    return Given(opposite, (), given.origin) if given.is_false and opposite in names else given


def merged(*layers: Iterable[Given]) -> dict[str, Given]:
    """By flag, in the order of their last mention; a later layer wins over an earlier one, and within it the later.

    What a file takes back is among them, see `Given.is_off`.
    """
    found: dict[str, Given] = {}
    for given in (given for layer in layers for given in layer):
        found.pop(given.flag, None)
        found[given.flag] = given
    return found
