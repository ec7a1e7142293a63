"""SGLang's server flags under the prefix `--sglang-`, read by SGLang's own parser and frozen."""

import argparse
import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from rl_data.json import JsonValue
from rl_rollout.errors import RolloutConfigError
from rl_rollout.sglang.flags import HONOURED, REFUSED

PREFIX = "--sglang-"
# SGLang's parser insists on a model; the engine is given its own.
_REQUIRED = ("--model-path", "unused")


@dataclass(frozen=True, slots=True, kw_only=True)
class SGLangArguments:
    """The server arguments that the user gave; everything else stays at SGLang's default.

    Plain values: it can be pickled and written as JSON.
    """

    argv: tuple[str, ...] = ()
    """The words that were parsed, with the prefix."""
    explicit: Mapping[str, JsonValue]
    """Field of SGLang's ServerArgs -> value, for each flag that was given."""

    def server_kwargs(self) -> dict[str, JsonValue]:
        """Keyword arguments for SGLang's Engine or ServerArgs."""
        return dict(self.explicit)


def parse_sglang_args(argv: Sequence[str]) -> SGLangArguments:
    """Reads server flags. Imports SGLang, which takes seconds, unless there is no flag.

    Args:
        argv: the flags with their values, for example ["--sglang-mem-fraction-static", "0.7"].

    Raises:
        RolloutConfigError: for an unknown or refused flag or a bad value.
    """
    given = [word.split("=", 1)[0] for word in argv if word.startswith("--")]
    for flag in given:
        bare = "--" + flag.removeprefix(PREFIX)
        if not flag.startswith(PREFIX) or bare not in HONOURED | REFUSED.keys():
            raise RolloutConfigError(f"{flag}: SGLang has no such server flag")
        if bare in REFUSED:
            raise RolloutConfigError(f"{flag}: this SGLang flag is not taken: {REFUSED[bare]}")
    if not argv:
        return SGLangArguments(explicit={})
    parser = _parser()
    words = ["--" + word.removeprefix(PREFIX) if word.startswith("--") else word for word in argv]
    # Aliases that SGLang means to retire keep their meaning; its notices, which name them without prefix, are dropped.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        args, extra = parser.parse_known_args([*_REQUIRED, *words])
        if extra:
            raise RolloutConfigError("{}: unexpected value {!r}".format(*_first_left_over(parser, words)))
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    fields = sorted({options["--" + flag.removeprefix(PREFIX)] for flag in given})
    return SGLangArguments(argv=tuple(argv), explicit={field: vars(args)[field] for field in fields})


def _first_left_over(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str, str]:
    """The flag, with its prefix, and the first word that is left over of those behind it."""
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    if starts[:1] != [0]:
        return "SGLang", words[0]
    for start, stop in pairwise([*starts, len(words)]):
        _, extra = parser.parse_known_args([*_REQUIRED, *words[start:stop]])
        if extra:
            return PREFIX + words[start].removeprefix("--").split("=", 1)[0], extra[0]
    raise AssertionError(f"together, and not one by one, flags leave words over: {words}")


class _Parser(argparse.ArgumentParser):
    """Raises, under the flag's prefixed name, where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        prefixed = message.removeprefix("argument ")
        if prefixed.startswith("--"):
            prefixed = PREFIX + prefixed.removeprefix("--")
        raise RolloutConfigError(prefixed)


def _parser() -> argparse.ArgumentParser:
    # SGLang warns about accelerators that are not installed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sglang.srt.server_args import ServerArgs

        parser = _Parser(allow_abbrev=False, add_help=False)
        ServerArgs.add_cli_args(parser)
    return parser
