"""`rl-data grade`: a line of JSON for each response."""

import argparse
import asyncio
import dataclasses
import itertools
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rl_data.commands.flags import add_bad_rows, add_source, open_source
from rl_data.commands.good_rows import GoodRows, add_list_flag, bad_row_rules
from rl_data.commands.output import write_output
from rl_data.errors import DataError
from rl_data.fields import object_field
from rl_data.grading import Grade, GraderConfig, GraderPool
from rl_data.grading.rm_type import parse_rm_type
from rl_data.json import JsonValue
from rl_data.messages import describe
from rl_data.rows.row_file import Row

_ROWS_AT_ONCE = 1024
_FIELD = re.compile(rf"\b(?:{'|'.join(field.name for field in dataclasses.fields(GraderConfig))})\b")
_NUM_TOKENS = "num_tokens"


class _Item(NamedTuple):
    """What a row gives to be graded."""

    response: str
    label: str | None
    metadata: dict[str, JsonValue]
    num_tokens: int | None


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Says what the command takes."""
    add_source(
        parser,
        more="; rows have `response` or `response_text`, and `label` if the grader needs one, "
        f"`{_NUM_TOKENS}`, or a sample's tokens, if it needs the length",
    )
    parser.add_argument("--rm-type", help="which grader, or a sum of several: 0.9*math+0.1*format")
    parser.add_argument("--custom-rm-path", metavar="FUNCTION", help="grader `custom`: package.module.function")
    parser.add_argument("--rm-url", metavar="URL", help="grader `remote`: http address that responses are posted to")
    parser.add_argument(
        "--rm-max-concurrency",
        type=int,
        default=64,
        metavar="NUM",
        help="grader `remote`: requests at the same time (default: 64)",
    )
    parser.add_argument(
        "--rm-max-retries",
        type=int,
        default=3,
        metavar="NUM",
        help="grader `remote`: times a request is made again, within its time (default: 3)",
    )
    parser.add_argument(
        "--overlong-buffer-len",
        type=int,
        metavar="NUM",
        help="grader `overlong`: tokens before the longest response over which the penalty rises to 1",
    )
    parser.add_argument(
        "--rollout-max-response-len",
        type=int,
        default=1024,
        metavar="NUM",
        help="grader `overlong`: tokens of the longest response (default: 1024)",
    )
    parser.add_argument("--response-key", help="key of the response; default: response, or else response_text")
    parser.add_argument("--label-key", default="label", help="key of the reference answer (default: label)")
    parser.add_argument("--metadata-key", default="metadata", help="key of an object for graders (default: metadata)")
    parser.add_argument(
        "--rm-num-workers",
        type=int,
        default=2,
        metavar="NUM",
        help="processes that compare mathematics, and as many that run a custom grader (default: 2)",
    )
    parser.add_argument(
        "--rm-timeout-s",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="time that one response may take in a process or at an address (default: 10)",
    )
    add_bad_rows(parser)
    add_list_flag(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes a grade for each row to standard output, and counts of outcomes to standard error."""
    rules = bad_row_rules(arguments)
    rows = open_source(arguments)
    outcomes: Counter[str] = Counter()
    total = 0.0
    config, opened = _open_pool(arguments)
    with opened as pool:
        rows_to_grade = GoodRows(rows, lambda row: _item(row, arguments, pool), rules)
        for batch in itertools.batched(rows_to_grade, _ROWS_AT_ONCE):
            grades = asyncio.run(_grades(pool, [item for _, item in batch]))
            lines = [
                msgspec.json.encode({"row": number, **msgspec.to_builtins(grade)}).decode() + "\n"
                for (number, _), grade in zip(batch, grades, strict=True)
            ]
            write_output("".join(lines))
            outcomes.update(grade.outcome.value for grade in grades)
            total += sum(grade.value or 0.0 for grade in grades)
        unasked = config.without_effect(pool.asked_for)
    counts = [f"{count} {name}" for name, count in outcomes.items()]
    if rows_to_grade.num_bad:
        counts.append(f"{rows_to_grade.num_bad} bad rows skipped")
    mean = f"mean {total / outcomes['graded']:.4f}" if outcomes["graded"] else "no grade"
    sys.stderr.write(", ".join([*counts, mean]) + "\n")
    for name, grader in unasked.items():
        flag = f"--{name.replace('_', '-')}"
        sys.stderr.write(f"{flag} had no effect: neither --rm-type nor a row asks for {grader}\n")


def _open_pool(arguments: argparse.Namespace) -> tuple[GraderConfig, GraderPool]:
    """The graders that the flags ask for.

    Raises:
        DataError: naming flags.
    """
    try:
        config = GraderConfig(
            rm_type=arguments.rm_type,
            rm_num_workers=arguments.rm_num_workers,
            rm_timeout_s=arguments.rm_timeout_s,
            custom_rm_path=arguments.custom_rm_path,
            rm_url=arguments.rm_url,
            rm_max_concurrency=arguments.rm_max_concurrency,
            rm_max_retries=arguments.rm_max_retries,
            overlong_buffer_len=arguments.overlong_buffer_len,
            rollout_max_response_len=arguments.rollout_max_response_len,
        )
        return config, GraderPool(config)
    except DataError as error:  # it names fields
        raise DataError(_FIELD.sub(lambda match: "--" + match[0].replace("_", "-"), str(error))) from error


async def _grades(pool: GraderPool, items: Sequence[_Item]) -> list[Grade]:
    return await asyncio.gather(
        *(pool.grade(one.response, one.label, one.metadata, num_tokens=one.num_tokens) for one in items)
    )


def _item(row: Row, arguments: argparse.Namespace, pool: GraderPool) -> _Item:
    """Response, label, metadata and length of a row.

    Raises:
        DataError: if one of them is no such thing, or the row cannot be graded with them.
    """
    keys = [arguments.response_key] if arguments.response_key else ["response", "response_text"]
    metadata = object_field(row, arguments.metadata_key)
    label = _text(row, arguments.label_key) if row.get(arguments.label_key) is not None else None
    pool.check_label(label, metadata)
    item = _Item(_text(row, *keys), label, metadata, _num_tokens(row))
    rm_type = metadata.get("rm_type") or arguments.rm_type  # without one it is a grader that looks at no length
    needs_length = isinstance(rm_type, str) and any(term.name == "overlong" for term in parse_rm_type(rm_type))
    if needs_length and item.num_tokens is None:
        raise DataError(f"rm-type overlong: expected key {_NUM_TOKENS!r}, found keys {sorted(row)}")
    return item


def _num_tokens(row: Row) -> int | None:
    """The response's, as the row says or else as a sample's tokens show; None if nothing does.

    Raises:
        DataError: if it is no number of tokens, or the prompt is longer than the sample.
    """
    value = row.get(_NUM_TOKENS)
    if value is not None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"key {_NUM_TOKENS!r}: expected a number of tokens, found {describe(value)}")
        return value
    tokens, prompt_length = row.get("tokens"), row.get("prompt_length")
    if not isinstance(tokens, list) or not isinstance(prompt_length, int) or isinstance(prompt_length, bool):
        return None
    if not 0 <= prompt_length <= len(tokens):
        raise DataError(f"key 'prompt_length': expected a number in [0, {len(tokens)}], found {prompt_length}")
    return len(tokens) - prompt_length


def _text(row: Row, *keys: str) -> str:
    """The text under the first of `keys` that the row has."""
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise DataError(f"expected key {' or '.join(repr(key) for key in keys)}, found keys {sorted(row)}")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"key {key!r}: expected text, found {describe(value)}")
    return value
