"""Which of the three kinds a flag belongs to. Reads plain tables only: neither Megatron nor SGLang is imported."""

import difflib
from collections.abc import Iterator, Mapping, Set
from enum import Enum

from recipes.arguments.flags_slime import REFUSED_OF_SLIME, REFUSED_PREFIXES_OF_SLIME, Always
from recipes.arguments.sources import Given
from recipes.errors import UsageError
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

SGLANG_PREFIX = "--sglang-"
NO_ENGINE = "this recipe starts no engine"
"""Why a recipe refuses SGLang's flags."""

OWNED_HERE: dict[str, str] = {
    "--calculate-per-token-loss": "the loss is rl-train's",
    "--eval-interval": "counts rollouts, and the engines evaluate",
    "--global-batch-size": "counts samples of a step, before they are packed",
    "--load": "names a run's checkpoint folder",
    "--save": "names a folder of rl-train's checkpoints",
    "--save-interval": "counts rollouts",
}
"""Flags that Megatron's parser has too and that mean the recipe's setting here, with the reason."""


class UnknownFlagError(UsageError):
    """A flag that nobody knows."""


class Kind(Enum):
    """Who reads a flag."""

    OWN = "own"
    MEGATRON = "megatron"
    SGLANG = "sglang"
    NOBODY = "nobody"
    """It asks for what always is."""
    OTHER_RECIPE = "another recipe"


def kind_of(
    given: Given,
    own: Set[str],
    *,
    takes_sglang: bool,
    always: Mapping[str, Always],
    others: Set[str],
    all_given: Mapping[str, Given],
) -> Kind:
    """Who reads the flag.

    Args:
        given: the flag.
        own: names of the recipe's own flags.
        takes_sglang: whether the recipe starts engines.
        always: flag -> what it asks for, which is always so in the recipe.
        others: names of other recipes' own flags.
        all_given: every flag of the command line.

    Raises:
        UsageError: with the reason, if it is refused.
        UnknownFlagError: with the nearest known name, if nobody knows it.
    """
    flag = given.flag
    if flag in own:
        return Kind.OWN
    if flag in always:
        _check_always(given, always[flag], all_given)
        return Kind.NOBODY
    if flag in others and _refusal_of_slime(flag) is None:  # which says why
        return Kind.OTHER_RECIPE
    reason = _refusal(flag, takes_sglang=takes_sglang)
    if reason is not None:
        raise UsageError(f"{flag}: {reason}")
    if flag in flags_honoured.HONOURED:
        return Kind.MEGATRON
    if flag in _sglang(sglang_flags.HONOURED):
        return Kind.SGLANG
    raise UnknownFlagError(f"{flag}: there is no such flag{_suggestion(flag, own, takes_sglang=takes_sglang)}")


def of_other_recipes(given: Mapping[str, Given], others: Mapping[str, str], program: str) -> Iterator[str]:
    """What to say of flags that other recipes have: a line for each, and one for all of a file.

    Args:
        given: the flags.
        others: flag -> the recipe that has it.
        program: who has no use for them, for example "python -m recipes.sft".
    """
    by_place: dict[tuple[str, str], list[Given]] = {}
    for flag, one in given.items():
        by_place.setdefault((one.origin.rpartition(":")[0] or flag, others[flag]), []).append(one)
    for (_, recipe), (first, *more) in by_place.items():
        names, a_flag, it = first.flag, "a flag", "it"
        if more:
            names, a_flag, it = f"{first.flag} and {len(more)} more", "flags", "them"
        name = program.removeprefix("python -m ")
        yield first.located(f"{names}: {a_flag} of {recipe}; {name} has no use for {it}")


def _check_always(given: Given, always: Always, all_given: Mapping[str, Given]) -> None:
    """Checks that the flag asks for what is so."""
    expected = always.values
    if always.same_as is not None:
        # Where that flag is missing, its own message says so.
        expected = all_given[always.same_as].values if always.same_as in all_given else given.values
    if given.values == expected:
        return
    got = " ".join(given.values)
    if not expected:
        raise UsageError(f"{given.flag}: it takes no value, got {got}")
    wanted = " ".join(expected) if always.same_as is None else f"{always.same_as}'s {' '.join(expected)}"
    raise UsageError(f"{given.flag} {got or 'without a value'}: expected {wanted}: {always.reason}")


def _refusal(flag: str, *, takes_sglang: bool) -> str | None:
    if flag.startswith(SGLANG_PREFIX) and not takes_sglang:
        return NO_ENGINE
    if (of_slime := _refusal_of_slime(flag)) is not None:
        return f"this flag of slime is not taken: {of_slime}"
    if flag in flags_refused.REFUSED:
        return f"this Megatron flag is not taken: {flags_refused.REFUSED[flag]}"
    bare = "--" + flag.removeprefix(SGLANG_PREFIX)
    if flag.startswith(SGLANG_PREFIX) and bare in sglang_flags.REFUSED:
        return f"this SGLang flag is not taken: {sglang_flags.REFUSED[bare]}"
    return None


def _refusal_of_slime(flag: str) -> str | None:
    by_prefix = (why for prefix, why in REFUSED_PREFIXES_OF_SLIME.items() if flag.startswith(prefix))
    return REFUSED_OF_SLIME.get(flag) or next(by_prefix, None)


def _suggestion(flag: str, own: Set[str], *, takes_sglang: bool) -> str:
    usable = own | flags_honoured.HONOURED
    refused = REFUSED_OF_SLIME.keys() | flags_refused.REFUSED.keys()
    if takes_sglang:
        usable |= _sglang(sglang_flags.HONOURED)
        refused |= _sglang(sglang_flags.REFUSED.keys())
    if SGLANG_PREFIX + flag[2:] in usable:
        return f"; SGLang's flags take a prefix: {SGLANG_PREFIX}{flag[2:]}"
    for names, cutoff in ((usable, 0.75), (refused, 0.9), (usable, 0.55)):
        near = difflib.get_close_matches(flag.replace("_", "-"), names, n=1, cutoff=cutoff)
        if near:
            return f"; the nearest is {near[0]}"
    return "; see --help, --help-megatron and --help-sglang" if takes_sglang else "; see --help and --help-megatron"


def _sglang(names: Set[str]) -> set[str]:
    return {SGLANG_PREFIX + name.removeprefix("--") for name in names}
