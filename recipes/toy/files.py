"""Data sets of the toys' problems: to imitate, to solve, and held out."""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from recipes.toy import arithmetic, chains
from recipes.toy.questions import Split
from rl_data.json import JsonValue

type TaskName = Literal["sums", "chains"]


class _Task(NamedTuple):
    conversations: Callable[[int, int], Sequence[tuple[str, str]]]
    problems: Callable[[int, random.Random, Split], Iterator[tuple[str, int]]]


_TASKS: Mapping[TaskName, _Task] = {
    "sums": _Task(arithmetic.draw_conversations, arithmetic.draw_problems),
    "chains": _Task(chains.draw_conversations, chains.draw_problems),
}


def make_conversations(path: Path, num_conversations: int, seed: int, task: TaskName = "sums") -> Path:
    """Writes conversations in the OpenHermes schema, one a line, and returns `path`."""
    return _write_lines(
        path,
        (
            {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
            for question, answer in _TASKS[task].conversations(num_conversations, seed)
        ),
    )


def make_problems(path: Path, num_problems: int, seed: int, split: Split, task: TaskName = "sums") -> Path:
    """Writes different problems of one split in the dapo-math schema, one a line, and returns `path`.

    Raises:
        UsageError: if the split has fewer problems.
    """
    problems = _TASKS[task].problems(num_problems, random.Random(seed), split)
    return _write_lines(
        path,
        ({"prompt": [{"role": "user", "content": question}], "label": str(result)} for question, result in problems),
    )


def _write_lines(path: Path, rows: Iterable[Mapping[str, JsonValue]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
