"""A recipe's command line: our flags, Megatron's and SGLang's, from a preset, a file and the words themselves.

A preset gives way to a --config file, and that to the command line. Each flag has one owner: names of the recipe's own
dataclasses come first (`known.OWNED_HERE` lists those that Megatron has too), `--sglang-` flags go to SGLang, the rest
to Megatron. Nothing heavy is imported here, so a mistyped flag is reported at once.
"""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from recipes.arguments.dataclass_flags import flags_of, instances
from recipes.arguments.flags_slime import ALWAYS, Always
from recipes.arguments.help import help_text
from recipes.arguments.known import NO_ENGINE, Kind, UnknownFlagError, kind_of, of_other_recipes
from recipes.arguments.sources import Given, from_command_line, from_file, merged, preset_path, switched_off
from recipes.errors import UsageError

PRESETS = Path(__file__).parent.parent / "presets"
_HELP_TOPICS = ("--help", "-h", "--help-megatron", "--help-sglang")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedArguments:
    """Our settings as instances, and the other two kinds as words for their own parsers."""

    own: Mapping[type, Any]
    """Dataclass -> its instance."""
    megatron_argv: tuple[str, ...]
    sglang_argv: tuple[str, ...]
    """With the prefix."""
    given: Mapping[str, Given]
    """Every flag that was given, with where."""
    title: str
    """The recipe and its presets, for example "python -m recipes.grpo --preset tiny_math"."""

    def get[T](self, config: type[T]) -> T:
        """The instance of one of the recipe's dataclasses."""
        return cast("T", self.own[config])


def parse_arguments(
    argv: Sequence[str],
    own_configs: Sequence[type],
    *,
    program: str,
    description: str = "",
    takes_sglang: bool = True,
    always: Mapping[str, Always] = ALWAYS,
    needless: Mapping[str, Mapping[str, str]] | None = None,
    others: Mapping[str, Sequence[type]] | None = None,
    presets_dir: Path = PRESETS,
) -> ParsedArguments:
    """Reads a command line.

    Args:
        argv: the words after the program's name.
        own_configs: the dataclasses whose fields are the recipe's flags.
        program: what --help calls the program, for example "python -m recipes.grpo".
        description: what --help says first.
        takes_sglang: whether the recipe starts engines; if not, SGLang's flags are refused and no help shows them.
        always: flags that ask for what is always so in the recipe: read, and nothing more.
        needless: a flag -> those that need not be given beside it, and what they are then.
        others: name of another recipe -> its `own_configs`, whose flags are told from what nobody knows.
        presets_dir: where --preset looks for NAME.yaml.

    Raises:
        UsageError: for a flag that is unknown, refused, missing or has a bad value, and for a bad preset or file.
        SystemExit: 0 after --help, --help-megatron or --help-sglang.
    """
    topic = next((topic for topic in _HELP_TOPICS if topic in argv), None)
    if topic == "--help-sglang" and not takes_sglang:
        raise UsageError(f"{topic}: {NO_ENGINE}")
    if topic is not None:
        sys.stdout.write(
            help_text(
                topic,
                own_configs,
                program=program,
                description=description,
                presets=presets_dir,
                takes_sglang=takes_sglang,
            )
        )
        raise SystemExit(0)
    own_names = {flag.name for config in own_configs for flag in flags_of(config)}
    of_others = {
        flag.name: name for name, configs in (others or {}).items() for config in configs for flag in flags_of(config)
    }
    given, off = _all_given(argv, presets_dir, needless or {}, own_names)
    by_kind: dict[Kind, dict[str, Given]] = {kind: {} for kind in Kind}
    problems: list[str] = []
    for one in (*given.values(), *off):
        try:
            kind = kind_of(
                one, own_names, takes_sglang=takes_sglang, always=always, others=of_others.keys(), all_given=given
            )
        except UsageError as error:
            if not one.is_off or isinstance(error, UnknownFlagError):
                problems.append(one.located(str(error)))
        else:
            if not one.is_off:
                by_kind[kind][one.flag] = one
    problems += of_other_recipes(by_kind[Kind.OTHER_RECIPE], of_others, program)
    if problems:
        raise UsageError("\n".join(problems))
    return ParsedArguments(
        own=_located_instances(own_configs, by_kind[Kind.OWN]),
        megatron_argv=tuple(_joined(by_kind[Kind.MEGATRON])),
        sglang_argv=tuple(_joined(by_kind[Kind.SGLANG])),
        given=given,
        title=_title(program, argv),
    )


def _title(program: str, argv: Sequence[str]) -> str:
    """A resolved configuration, read without a preset of its own, is still that of the preset on its first line."""
    words = from_command_line(argv)
    presets = [f"--preset {_one_value(word)}" for word in words if word.flag == "--preset"]
    files = [_one_value(word) for word in words if word.flag == "--config"]
    if presets or not files:
        return " ".join([program, *presets])
    first_line = Path(files[-1]).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return first_line if first_line.startswith(f"{program} --preset ") else program


def _all_given(
    argv: Sequence[str], presets_dir: Path, needless: Mapping[str, Mapping[str, str]], own_names: Set[str]
) -> tuple[dict[str, Given], list[Given]]:
    """Every flag of the presets, the files and the words, and those that need not be given beside one of them.

    Beside them, those that a file takes back.
    """
    words = from_command_line(argv)
    files = [preset_path(_one_value(word), presets_dir) for word in words if word.flag == "--preset"]
    files += [Path(_one_value(word)) for word in words if word.flag == "--config"]
    found = merged(
        *([switched_off(one, own_names) for one in from_file(file)] for file in files),
        (word for word in words if word.flag not in ("--preset", "--config")),
    )
    given = {flag: one for flag, one in found.items() if not one.is_off}
    for flag in needless.keys() & given.keys():
        for other, value in needless[flag].items():
            given.setdefault(other, Given(other, (value,), flag))
    return given, [one for one in found.values() if one.is_off]


def located(message: str, given: Mapping[str, Given]) -> str:
    """The message with file and line in front, if it begins with a flag that was given in a file."""
    flag = message.split(" ", 1)[0].rstrip(":")
    return given[flag].located(message) if flag in given else message


def _one_value(word: Given) -> str:
    if len(word.values) != 1:
        raise UsageError(f"{word.flag}: expected one value, got {' '.join(word.values) or 'none'}")
    return word.values[0]


def _located_instances(configs: Sequence[type], given: Mapping[str, Given]) -> dict[type, Any]:
    try:
        return instances(configs, given)
    except UsageError as error:
        raise UsageError("\n".join(located(line, given) for line in str(error).split("\n"))) from error


def _joined(given: Mapping[str, Given]) -> list[str]:
    return [word for one in given.values() for word in one.words]
