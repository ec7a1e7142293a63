"""Problems of several steps, `47 + 15 - 8 + 16`, and conversations that write the steps out, drawn from a seed.

A chain is worked through from left to right, and every result on the way has two digits. A chain held out for
evaluation occurs neither among the training problems nor in a conversation, whatever the seed.
"""

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

from recipes.toy.questions import QUESTIONS, Split, split_of

type _Operation = tuple[Literal["+", "-"], int]

_NUM_OPERATIONS = (3, 4, 5)
_LEAST, _MOST = 10, 99
"""Of a result."""
_LEAST_CHANGE, _MOST_CHANGE = 2, 19
"""What an operation adds or subtracts: some 3,000 sums and differences in all, which minutes of SFT suffice for."""

# As in collected instruction data, some answers are wrong and most do not end as the grader wants. Both bound what
# imitation gives, however long it goes on: a sample is right with a chance of about 0.9 ** 4 * 0.35, less than a
# quarter, and the likeliest answer ends in a way that the grader does not read.
_SLIP_SHARE = 0.1
_SLIPS = (-10, -2, -1, 1, 2, 10)
_GRADED_SHARE = 0.35
_GRADED_ENDING = "Answer: {}"
_OTHER_ENDINGS = ("So it makes {}.", "So the result is {}.")


class Chain(NamedTuple):
    """A number, and operations that follow one another."""

    first: int
    operations: tuple[_Operation, ...]

    @property
    def text(self) -> str:
        """The problem as it is written in a question."""
        return " ".join([str(self.first), *(f"{sign} {number}" for sign, number in self.operations)])

    @property
    def result(self) -> int:
        """The right answer."""
        total = self.first
        for operation in self.operations:
            total = _apply(total, operation)
        return total


def draw_chain(random_state: random.Random, split: Split) -> Chain:
    """A chain of the split."""
    while True:
        first = total = random_state.randint(_LEAST, _MOST)
        operations: list[_Operation] = []
        for _ in range(random_state.choice(_NUM_OPERATIONS)):
            operations.append(_draw_operation(total, random_state))
            total = _apply(total, operations[-1])
        chain = Chain(first, tuple(operations))
        if split_of(chain.text) == split:
            return chain


def draw_problems(num_problems: int, random_state: random.Random, split: Split) -> Iterator[tuple[str, int]]:
    """(question, right answer) of different chains of one split."""
    seen: set[Chain] = set()
    while len(seen) < num_problems:
        chain = draw_chain(random_state, split)
        if chain not in seen:
            seen.add(chain)
            yield random_state.choice(QUESTIONS).format(chain.text), chain.result


def draw_conversations(num_conversations: int, seed: int) -> list[tuple[str, str]]:
    """(question, answer) pairs about training problems, the steps written out."""
    random_state = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    for _ in range(num_conversations):
        chain = draw_chain(random_state, "train")
        pairs.append((random_state.choice(QUESTIONS).format(chain.text), draw_answer(chain, random_state)))
    return pairs


def draw_answer(chain: Chain, random_state: random.Random) -> str:
    """The steps, one a line, and an ending. A step that slips is not mended: the next goes on from what it gave."""
    total = chain.first
    lines: list[str] = []
    for operation in chain.operations:
        result = _apply(total, operation)
        slipped = result + random_state.choice(_SLIPS)
        if random_state.random() < _SLIP_SHARE and 0 <= slipped <= _MOST:
            result = slipped
        sign, number = operation
        lines.append(f"{total} {sign} {number} = {result}")
        total = result
    is_graded = random_state.random() < _GRADED_SHARE
    ending = _GRADED_ENDING if is_graded else random_state.choice(_OTHER_ENDINGS)
    return "\n".join([*lines, ending.format(total)])


def _draw_operation(total: int, random_state: random.Random) -> _Operation:
    """One whose result has two digits."""
    most_added, most_taken = min(_MOST_CHANGE, _MOST - total), min(_MOST_CHANGE, total - _LEAST)
    can_add, can_take = most_added >= _LEAST_CHANGE, most_taken >= _LEAST_CHANGE
    if can_add and (not can_take or random_state.random() < 0.5):
        return "+", random_state.randint(_LEAST_CHANGE, most_added)
    return "-", random_state.randint(_LEAST_CHANGE, most_taken)


def _apply(total: int, operation: _Operation) -> int:
    sign, number = operation
    return total + number if sign == "+" else total - number
