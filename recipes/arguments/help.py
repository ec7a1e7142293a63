"""The texts of --help, --help-megatron and --help-sglang."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recipes.arguments.dataclass_flags import OwnParser
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

_WIDTH = 116


def help_text(topic: str, own_configs: Sequence[type], *, program: str, description: str, presets: Path) -> str:
    """The text for one of --help, -h, --help-megatron, --help-sglang."""
    if topic == "--help-megatron":
        return _megatron_help()
    if topic == "--help-sglang":
        return _sglang_help()
    names = ", ".join(sorted(path.stem for path in presets.glob("*.yaml")))
    parser = OwnParser(
        own_configs,
        prog=program,
        usage=f"{program} [--preset NAME] [--config FILE] [flags]",
        description=description,
        epilog="Beside these: Megatron's flags under their own names, SGLang's server flags with the prefix --sglang-.",
    )
    sources = parser.add_argument_group("Where flags come from; later ones win")
    sources.add_argument("--preset", metavar="NAME", help=f"flags of a preset: {names}")
    sources.add_argument("--config", metavar="FILE", help="flags of a YAML file, such as a run's config.yaml")
    sources.add_argument("--help-megatron", help="Megatron's flags that are taken, and why others are not", nargs=0)
    sources.add_argument("--help-sglang", help="SGLang's flags that are taken, and why others are not", nargs=0)
    return parser.format_help()


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
