"""Flags that several commands share. Those that say what training makes of a row are named as the recipes' own."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

from rl_data.conversations import ConversationDataConfig
from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.prompts import PromptDataConfig
from rl_data.reading import DEFAULT_BAD_ROW_SHARE
from rl_data.rows import RowFile, open_rows
from rl_data.rows.combined import RowChain

SOURCE_HELP = (
    "files (.jsonl, also .gz or .zst, .parquet, .arrow), folders, patterns or hub:OWNER/NAME; each with a slice, as in "
    "FILE@[0:100], if wanted"
)


def add_source(parser: argparse.ArgumentParser, *, more: str = "") -> None:
    """What is read."""
    parser.add_argument("source", nargs="+", help=SOURCE_HELP + more)


def open_source(arguments: argparse.Namespace) -> RowFile:
    """The rows that were named.

    Raises:
        DataError: if one of the data sets is missing, empty or unreadable.
    """
    parts = [open_rows(source) for source in cast("list[str]", arguments.source)]
    return RowChain(parts) if len(parts) > 1 else parts[0]


def add_tokenizer(parser: argparse.ArgumentParser, *, is_required: bool, more: str = "") -> None:
    """Whose tokens and chat template are used."""
    parser.add_argument(
        "--tokenizer",
        "--hf-checkpoint",
        required=is_required,
        metavar="DIR",
        help="model folder with a tokenizer" + more,
    )


def add_bad_rows(parser: argparse.ArgumentParser) -> None:
    """What becomes of bad rows."""
    parser.add_argument(
        "--on-bad-row", choices=("stop", "skip"), default="stop", help="what a row that cannot be used does"
    )
    parser.add_argument(
        "--max-bad-row-share",
        type=_share,
        metavar="SHARE",
        help="with --on-bad-row skip: the share of bad rows above which it stops all the same "
        f"(default: {DEFAULT_BAD_ROW_SHARE})",
    )


def bad_row_share(arguments: argparse.Namespace) -> float | None:
    """The share of bad rows that is let pass; None: the first one ends it.

    Raises:
        DataError: if a share is given, and has no effect.
    """
    share = cast("float | None", arguments.max_bad_row_share)
    if arguments.on_bad_row == "skip":
        return DEFAULT_BAD_ROW_SHARE if share is None else share
    if share is not None:
        raise DataError(f"--max-bad-row-share {share:g}: it has no effect without --on-bad-row skip")
    return None


def add_rendering(parser: argparse.ArgumentParser) -> None:
    """What training makes of a row. Flags that are not given are None: `rendering.open_rendered` reads them."""
    parser.add_argument(
        "--as",
        dest="kind",
        choices=("conversations", "prompts"),
        help="what training takes the rows for: conversations, as SFT does, of which the assistant's turns are "
        "trained, or prompts, as GRPO does (default: conversations)",
    )
    parser.add_argument(
        "--input-key",
        metavar="KEY",
        help="key of the messages or the prompt (default: messages, or else conversations; of prompts: input)",
    )
    for title, config, flags in (
        ("of both", PromptDataConfig, BOTH),
        ("of conversations", ConversationDataConfig, OF_CONVERSATIONS),
        ("of prompts", PromptDataConfig, OF_PROMPTS),
    ):
        group = parser.add_argument_group(title)
        helps = {field.name: str(field.metadata["help"]) for field in dataclasses.fields(config)}
        for name, how in flags.items():
            group.add_argument("--" + name.replace("_", "-"), default=None, help=helps[name], **how)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value


def _json_object(text: str) -> dict[str, JsonValue]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}, got {text}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return cast("dict[str, JsonValue]", value)


def _num_tokens(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of tokens above 0, got {text}")
    return value


# Fields of the configurations, and how argparse reads them.
BOTH: Mapping[str, Mapping[str, Any]] = {
    "tool_key": {"metavar": "KEY"},
    "apply_chat_template_kwargs": {"type": _json_object, "metavar": "JSON"},
    "chat_template_kwargs_key": {"metavar": "KEY"},
}
OF_CONVERSATIONS: Mapping[str, Mapping[str, Any]] = {
    "max_length": {"type": _num_tokens, "metavar": "NUM"},
    "on_long_conversation": {"choices": ("drop", "cut")},
}
OF_PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "apply_chat_template": {"action": "store_true"},
    "label_key": {"metavar": "KEY"},
    "metadata_key": {"metavar": "KEY"},
    "rollout_max_prompt_len": {"type": _num_tokens, "metavar": "NUM"},
    "on_long_prompt": {"choices": ("drop", "cut")},
}
