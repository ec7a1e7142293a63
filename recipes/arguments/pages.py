"""The tables of flags in docs/usage, made from the code: `python -m recipes.arguments.pages [--check]`."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from recipes.arguments.dataclass_flags import OwnFlag, flags_of
from recipes.arguments.flags_slime import (
    ALWAYS_IN_GRPO,
    ALWAYS_IN_SFT,
    MEGATRONS_IN_SLIME,
    OTHER_CONTRACTS_OF_SLIME,
    OTHER_DEFAULTS_OF_SLIME,
    REFUSED_OF_SLIME,
    SAME_IN_SLIME,
    Always,
)
from recipes.arguments.known import SGLANG_PREFIX
from recipes.own_configs import GRPO, SFT
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

FOLDER = Path(__file__).parents[2] / "docs" / "usage"
BEGIN = "<!-- made by python -m recipes.arguments.pages; do not edit -->"
END = "<!-- end of what python -m recipes.arguments.pages makes -->"


def main() -> int:
    """Writes the tables into their pages; with --check only says which are out of date. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.arguments.pages", description="Tables of flags.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    is_check = parser.parse_args().check
    stale = {page: new for page, new in new_pages().items() if page.read_text() != new}
    for page, new in stale.items():
        if is_check:
            sys.stderr.write(f"{page.name}: its tables are out of date; run python -m recipes.arguments.pages\n")
        else:
            page.write_text(new)
    return int(is_check and bool(stale))


def new_pages() -> dict[Path, str]:
    """Page -> its text, with the tables as the code has them now."""
    return {FOLDER / name: _with_part(FOLDER / name, make()) for name, make in _PARTS.items()}


def _with_part(page: Path, part: str) -> str:
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{page}: expected the lines {BEGIN!r} and {END!r}, once each")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def _own() -> str:
    sections: list[str] = []
    for config in dict.fromkeys((*GRPO, *SFT)):
        recipes = [name for name, configs in (("recipes.grpo", GRPO), ("recipes.sft", SFT)) if config in configs]
        title = (config.__doc__ or config.__name__).partition("\n")[0].rstrip(".")
        rows = ((_code(flag.name), _takes(flag), _default(flag), flag.help) for flag in flags_of(config))
        table = _table(("flag", "takes", "default", "is"), rows)
        sections.append(f"## {title}\n\nIn {' and '.join(map(_code, recipes))}.\n\n{table}")
    return "\n\n".join(sections)


def _takes(flag: OwnFlag) -> str:
    if flag.reader is None:
        return ""
    if flag.reader.choices:
        return ", ".join(_code(str(choice)) for choice in flag.reader.choices)
    return flag.reader.expected + (" ..." if flag.reader.is_list else "")


def _default(flag: OwnFlag) -> str:
    if flag.is_required:
        return "required"
    if flag.reader is None or flag.default is None or flag.default in ((), {}):
        return ""
    if flag.reader.is_list:
        return _code(" ".join(str(value) for value in flag.default))
    return _code(str(flag.default))


def _megatron() -> str:
    limited = flags_honoured.LIMITED
    free = flags_honoured.HONOURED - flags_honoured.SHAPE_FLAGS - limited.keys()
    fixed = (
        (_code(flag), ", ".join(_code(str(value)) for value in (limit.value, *limit.also)), limit.reason)
        for flag, limit in sorted(limited.items())
    )
    return "\n\n".join(
        [
            f"## Taken\n\n{_names(free)}",
            "## Read from config.json\n\nA flag may repeat what the model's config.json says; another value is an "
            f"error.\n\n{_names(flags_honoured.SHAPE_FLAGS)}",
            "## Fixed\n\nA flag may repeat the value; another is an error. `True` and `False` are what Megatron's "
            f"value is, whichever way its flag points.\n\n{_table(('flag', 'value', 'because'), fixed)}",
            f"## Refused\n\n{_by_reason(flags_refused.REFUSED)}",
        ]
    )


def _sglang() -> str:
    taken = _names(SGLANG_PREFIX + flag[2:] for flag in sglang_flags.HONOURED)
    refused = {SGLANG_PREFIX + flag[2:]: reason for flag, reason in sglang_flags.REFUSED.items()}
    return f"## Taken\n\n{taken}\n\n## Refused\n\n{_by_reason(refused)}"


def _slime() -> str:
    in_grpo, in_sft = ({flag.name: flag for config in configs for flag in flags_of(config)} for configs in (GRPO, SFT))
    both = [name for name in SAME_IN_SLIME if name in in_sft]
    grpo = [name for name in SAME_IN_SLIME if name not in in_sft]
    defaults = (
        (_code(flag), old, _defaults(in_grpo[flag], in_sft.get(flag))) for flag, old in OTHER_DEFAULTS_OF_SLIME.items()
    )
    contracts = ((_code(flag), *contract) for flag, contract in OTHER_CONTRACTS_OF_SLIME.items())
    megatrons = ((_code(flag), flags_refused.REFUSED.get(flag, "taken")) for flag in MEGATRONS_IN_SLIME)
    always = (
        (_code(flag), _asks(one), _where(flag, one), one.reason)
        for flag, one in sorted({*ALWAYS_IN_GRPO.items(), *ALWAYS_IN_SFT.items()})
    )
    return "\n\n".join(
        [
            f"## The same\n\nIn both recipes: {_names(both)}\n\nIn `recipes.grpo`: {_names(grpo)}",
            f"Other defaults:\n\n{_table(('flag', 'in slime', 'here'), defaults)}",
            "## Same name, other contract\n\nIn `recipes.grpo`. A grader sees no prompt: what it needs of the question "
            "has to stand in the row's metadata ([grading](grading.md)).\n\n"
            f"{_table(('flag', 'in slime', 'here'), contracts)}",
            "## Always so\n\nThese are read and change nothing; a value that asks for something else is an error.\n\n"
            f"{_table(('flag', 'value', 'in', 'because'), always)}",
            "## Refused\n\nThe message names the flag and what to do instead. A flag of one recipe that the "
            "other has no use for is refused there. So are all of SGLang's router, which begin with `--router-` or "
            f"`--sglang-router-`.\n\n{_by_reason(REFUSED_OF_SLIME)}",
            "## Megatron's\n\nslime defines these flags of Megatron anew. Here they are what they are in Megatron, and "
            f"those that are not taken are refused, because:\n\n{_table(('flag', 'here'), megatrons)}",
        ]
    )


def _defaults(grpo: OwnFlag, sft: OwnFlag | None) -> str:
    here = _default(grpo) or "none"
    if sft is None or sft.default == grpo.default:
        return here
    return f"{here}, in `recipes.sft` {_default(sft) or 'none'}"


def _asks(one: Always) -> str:
    return f"that of {_code(one.same_as)}" if one.same_as else " ".join(map(_code, one.values))


def _where(flag: str, one: Always) -> str:
    if ALWAYS_IN_GRPO.get(flag) == ALWAYS_IN_SFT.get(flag):
        return "both"
    return _code("recipes.grpo" if ALWAYS_IN_GRPO.get(flag) == one else "recipes.sft")


def _by_reason(refused: Mapping[str, str]) -> str:
    flags: dict[str, list[str]] = {}
    for flag, reason in refused.items():
        flags.setdefault(reason, []).append(flag)
    return _table(("because, and what to do instead", "flags"), ((why, _names(names)) for why, names in flags.items()))


def _names(flags: Iterable[str]) -> str:
    return " ".join(map(_code, sorted(flags)))


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


_PARTS: Mapping[str, Callable[[], str]] = {
    "from-slime.md": _slime,
    "megatron-flags.md": _megatron,
    "own-flags.md": _own,
    "sglang-flags.md": _sglang,
}
"""Page -> what makes its tables."""


if __name__ == "__main__":
    sys.exit(main())
