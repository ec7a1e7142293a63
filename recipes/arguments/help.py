"""The texts of --help, --help-megatron and --help-sglang."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recipes.arguments.dataclass_flags import OwnFlag, flags_of
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

_WIDTH = 118
_HELP_COLUMN = 34


def help_text(
    topic: str, own_configs: Sequence[type], *, program: str, description: str, presets: Path, takes_sglang: bool
) -> str:
    """The text for one of --help, -h, --help-megatron, --help-sglang."""
    if topic == "--help-megatron":
        return _megatron_help()
    if topic == "--help-sglang":
        return _sglang_help()
    names = ", ".join(sorted(path.stem for path in presets.glob("*.yaml")))
    lines = [f"usage: {program} [--preset NAME] [--config FILE] [flags]", "", description, ""]
    lines += ["Where flags come from; later ones win", *_entry("--preset NAME", f"flags of a preset: {names}")]
    lines += [*_entry("--config FILE", "flags of a YAML file, such as a run's config.yaml"), ""]
    seen: set[str] = set()
    for config in own_configs:
        lines.append((config.__doc__ or config.__name__).partition("\n")[0].rstrip("."))
        lines += [line for flag in flags_of(config) if flag.name not in seen for line in _own_entry(flag)]
        seen |= {flag.name for flag in flags_of(config)}
        lines.append("")
    lines += ["Megatron's flags under their own names: see --help-megatron"]
    if takes_sglang:
        lines += ["SGLang's server flags with the prefix --sglang-: see --help-sglang"]
    return "\n".join([*lines, ""])


def _own_entry(flag: OwnFlag) -> list[str]:
    left, text = flag.name, flag.help
    if flag.reader is not None:
        left += " VALUE" + (" ..." if flag.reader.is_list else "")
        if flag.reader.choices:
            text += f"; {flag.reader.expected}"
        if flag.is_required:
            text += " (required)"
        elif flag.default is not None and flag.default != () and flag.default != {}:
            text += f" (default: {flag.default})"
    return _entry(left, text)


def _entry(left: str, text: str) -> list[str]:
    """A flag and its help, in two columns."""
    lines = textwrap.wrap(text, _WIDTH - _HELP_COLUMN, break_on_hyphens=False)
    indented = [" " * _HELP_COLUMN + line for line in lines]
    if len(left) + 4 > _HELP_COLUMN or not lines:
        return [f"  {left}", *indented]
    return [f"  {left}".ljust(_HELP_COLUMN) + lines[0], *indented[1:]]


def _megatron_help() -> str:
    limited = flags_honoured.LIMITED
    free = flags_honoured.HONOURED - flags_honoured.SHAPE_FLAGS - limited.keys()
    lines = ["Megatron's flags, as Megatron documents them.", "", "Taken:", *_columns(free), ""]
    lines += ["Read from config.json; a flag may repeat what it says:", *_columns(flags_honoured.SHAPE_FLAGS), ""]
    lines += ["Fixed; a flag may repeat the value:"]
    for flag, (dest, value, reason, also) in sorted(limited.items()):
        values = ", ".join(str(item) for item in (value, *also))
        lines.append(f"  {flag}: {reason} ({dest}: {values})")
    return "\n".join([*lines, "", *_refused(flags_refused.REFUSED, ""), ""])


def _sglang_help() -> str:
    lines = ["SGLang's server flags, as SGLang documents them, with the prefix --sglang-.", "", "Taken:"]
    lines += _columns("--sglang-" + name[2:] for name in sglang_flags.HONOURED)
    return "\n".join([*lines, "", *_refused(sglang_flags.REFUSED, "sglang-"), ""])


def _refused(reasons: Mapping[str, str], prefix: str) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for flag, reason in reasons.items():
        by_reason.setdefault(reason, []).append(f"--{prefix}{flag[2:]}")
    lines = ["Not taken:"]
    for reason, names in by_reason.items():
        lines += [f"  {reason}:", *("  " + line for line in _columns(names))]
    return lines


def _columns(names: Iterable[str]) -> list[str]:
    """The names, as many on a line as fit."""
    lines = ["  "]
    for name in sorted(names):
        if len(lines[-1]) + len(name) > _WIDTH:
            lines.append("  ")
        lines[-1] += name + " "
    return [line.rstrip() for line in lines]
