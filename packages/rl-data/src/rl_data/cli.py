"""The command `rl-data`: look at a row as the model sees it, grade answers, count what is in a file."""

import argparse
import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import msgspec
import numpy as np
from numpy.typing import NDArray

from rl_data.chat import ConversationRenderer, render_text
from rl_data.errors import DataError, RLDataError
from rl_data.grading import GraderConfig, GraderPool
from rl_data.json import JsonValue
from rl_data.messages import Message, check_messages, check_tools, check_turns, describe, has_turns, require_key
from rl_data.rows import located, open_rows
from rl_data.stats import data_stats, quantiles
from rl_data.tokenizer import Tokenizer, load_tokenizer

_KEYS = ("messages", "conversations", "prompt", "input")
_ROWS_AT_ONCE = 1024
_GREEN, _PLAIN = "\033[32m", "\033[0m"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code: 0, or 2 after one message about what the user can mend."""
    arguments = _parser().parse_args(argv)
    try:
        commands = {"render": _render, "grade": _grade, "stats": _stats}
        commands[arguments.command](arguments)
    except RLDataError as error:
        print(f"rl-data: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; nothing is flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rl-data", description="Data for post-training language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    file_help = "a .jsonl or .parquet file, with a slice as in FILE@[0:100]"

    render = commands.add_parser("render", help="print a row as the model sees it, with the trained tokens marked")
    render.add_argument("file", help=file_help)
    render.add_argument("--tokenizer", required=True, metavar="DIR", help="model folder with a tokenizer")
    render.add_argument("--row", type=int, default=0, help="number of the row, from 0")
    render.add_argument("--input-key", help=f"key of the messages; default: the first there is of {', '.join(_KEYS)}")

    grade = commands.add_parser("grade", help="grade responses; prints a line of JSON for each")
    grade.add_argument("file", help=f"{file_help}; rows have `label` and `response` or `response_text`")
    grade.add_argument("--rm-type", required=True, help="which grader, or a sum of several: 0.9*math+0.1*format")
    grade.add_argument("--num-workers", type=int, default=2, help="processes that compare mathematics")
    grade.add_argument("--timeout-s", type=float, default=10.0, help="time that one comparison may take")

    stats = commands.add_parser("stats", help="count rows, keys, roles, lengths and duplicates")
    stats.add_argument("file", help=file_help)
    stats.add_argument("--tokenizer", metavar="DIR", help="model folder; adds lengths in tokens of the rendered rows")
    stats.add_argument("--input-key", help=f"key of the messages; default: the first there is of {', '.join(_KEYS)}")
    return parser


def _render(arguments: argparse.Namespace) -> None:
    rows = open_rows(arguments.file)
    if not 0 <= arguments.row < len(rows):
        raise DataError(f"{arguments.file}: expected a row in [0, {len(rows)}), got {arguments.row}")
    tokenizer = load_tokenizer(arguments.tokenizer, needs_chat_template=True)
    with located(rows, arguments.row):
        tokens, mask = _RowRenderer(tokenizer, arguments.input_key).render(rows.row(arguments.row))
    opening, closing = (_GREEN, _PLAIN) if sys.stdout.isatty() else ("[[", "]]")
    pairs = zip(tokens.tolist(), mask.tolist(), strict=True)
    for is_trained, run in itertools.groupby(pairs, key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in run])
        print(f"{opening}{text}{closing}" if is_trained else text, end="")
    print(f"\n{len(tokens)} tokens, {int(mask.sum())} trained", file=sys.stderr)


def _grade(arguments: argparse.Namespace) -> None:
    rows = open_rows(arguments.file)
    outcomes: Counter[str] = Counter()
    total = 0.0
    config = GraderConfig(
        rm_type=arguments.rm_type, rm_num_workers=arguments.num_workers, rm_timeout_s=arguments.timeout_s
    )
    with GraderPool(config) as pool:
        for batch in itertools.batched(rows.rows(), _ROWS_AT_ONCE):
            items: list[tuple[str, str, None]] = []
            for index, row in batch:
                with located(rows, index):
                    items.append((_text(row, "response", "response_text"), _text(row, "label"), None))
            for grade in asyncio.run(pool.grade_many(items)):
                print(msgspec.json.encode(grade).decode())
                outcomes[grade.outcome.value] += 1
                total += grade.value or 0.0
    mean = f"mean {total / outcomes['graded']:.4f}" if outcomes["graded"] else "no grade"
    print(", ".join(f"{count} {name}" for name, count in outcomes.items()) + f", {mean}", file=sys.stderr)


def _stats(arguments: argparse.Namespace) -> None:
    rows = open_rows(arguments.file)
    shown: dict[str, object] = asdict(data_stats(rows))
    if arguments.tokenizer:
        renderer = _RowRenderer(load_tokenizer(arguments.tokenizer, needs_chat_template=True), arguments.input_key)
        lengths: list[int] = []
        for index, row in rows.rows():
            with located(rows, index):
                lengths.append(len(renderer.render(row)[0]))
        shown["tokens"] = quantiles(lengths)
    print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


class _RowRenderer:
    """Renders rows of any schema: prompts as text or messages, conversations in both forms."""

    def __init__(self, tokenizer: Tokenizer, input_key: str | None) -> None:
        self._tokenizer = tokenizer
        self._input_key = input_key
        self._conversations: ConversationRenderer | None = None

    def render(self, row: dict[str, JsonValue]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """[T] tokens of a row and [T] whether they would be trained: a conversation's answers, nothing of a prompt."""
        messages = self._messages(row)
        tools = check_tools(row.get("tools"), key="tools")
        if any(message["role"] == "assistant" for message in messages):
            self._conversations = self._conversations or ConversationRenderer(self._tokenizer)
            rendered = self._conversations.render(messages, tools=tools)
            return rendered.tokens, rendered.loss_mask
        text = render_text(self._tokenizer, messages, tools=tools, add_generation_prompt=True)
        tokens = np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
        return tokens, np.zeros(len(tokens), dtype=np.bool_)

    def _messages(self, row: dict[str, JsonValue]) -> list[Message]:
        key = self._input_key or next((key for key in _KEYS if key in row), None)
        if key is None:
            raise DataError(f"expected one of the keys {', '.join(_KEYS)}, found keys {sorted(row)}")
        value = require_key(row, key)
        if isinstance(value, str):
            return [{"role": "user", "content": value}]
        return check_turns(value, key=key) if has_turns(value) else check_messages(value, key=key)


def _text(row: dict[str, JsonValue], *keys: str) -> str:
    """The text under the first of `keys` that the row has."""
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise DataError(f"expected key {' or '.join(repr(key) for key in keys)}, found keys {sorted(row)}")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"key {key!r}: expected text, found {describe(value)}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
