"""Sums of two numbers, and conversations about them, drawn from a seed.

The pool of problems is fixed and split once: a problem held out for evaluation occurs neither among the training
problems nor in a conversation, whatever the seed.
"""

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from recipes.errors import UsageError
from recipes.toy.questions import QUESTIONS, Split, split_of

# As in collected instruction data, only some answers follow the format that the grader wants.
_GRADED_SHARE = 0.3
_GRADED_ANSWER = "{sum}\nAnswer: {result}"
_OTHER_ANSWERS = (
    "{sum}",
    "{sum}.",
    "{sum}, so it makes {result}.",
)


class Problem(NamedTuple):
    """`left + right`, for example 17 + 52."""

    left: int
    right: int

    @property
    def text(self) -> str:
        """The problem as it is written in a question."""
        return f"{self.left} + {self.right}"

    @property
    def result(self) -> int:
        """The right answer."""
        return self.left + self.right

    @property
    def split(self) -> Split:
        """Where the problem belongs: a checksum of its text decides."""
        return split_of(self.text)


@cache
def problem_pool(split: Split) -> tuple[Problem, ...]:
    """Every problem of a split: sums of two numbers of two digits, without a carry.

    Each digit of the result depends on two digits only, so a tiny model learns them within minutes and what it learned
    holds for the problems it never saw.
    """
    numbers = range(10, 90)
    pairs = (Problem(left, right) for left in numbers for right in numbers)
    return tuple(
        problem
        for problem in pairs
        if problem.left % 10 + problem.right % 10 < 10 and problem.result < 100 and problem.split == split
    )


def draw_conversations(num_conversations: int, seed: int) -> list[tuple[str, str]]:
    """(question, answer) pairs about training problems; the arithmetic is right, the phrasing varies."""
    random_state = random.Random(seed)
    pool = problem_pool("train")
    pairs: list[tuple[str, str]] = []
    for _ in range(num_conversations):
        problem = random_state.choice(pool)
        is_graded = random_state.random() < _GRADED_SHARE
        answer = _GRADED_ANSWER if is_graded else random_state.choice(_OTHER_ANSWERS)
        question = random_state.choice(QUESTIONS).format(problem.text)
        pairs.append((question, answer.format(sum=f"{problem.text} = {problem.result}", result=problem.result)))
    return pairs


def draw_problems(num_problems: int, random_state: random.Random, split: Split) -> Iterator[tuple[str, int]]:
    """(question, right answer) of different problems of one split.

    Raises:
        UsageError: if the split has fewer problems.
    """
    pool = problem_pool(split)
    if num_problems > len(pool):
        raise UsageError(f"expected at most {len(pool)} {split} problems, got {num_problems}")
    for problem in random_state.sample(pool, num_problems):
        yield random_state.choice(QUESTIONS).format(problem.text), problem.result
