"""What the host process asks of the weight loader in SGLang's scheduler processes, and what that answers.

SGLang carries an order as the name of an empty tensor. It drops what a weight loader returns and dies of what one
raises, so the answer is written into a file in memory that the order names.
"""

from collections.abc import Sequence

import msgspec

from rl_rollout.sglang.messages import CheckBuffer, DeviceBuffer, GroupBuffer, JoinGroup, LetGo

LOADER = "rl_rollout.sglang.weight_loader.load"
"""Name by which SGLang finds the loader."""


class HostBuffer(msgspec.Struct, frozen=True, tag=True):
    """A file that holds a bucket, in memory or on a disk."""

    path: str
    num_bytes: int


class LoadBucket(msgspec.Struct, frozen=True, tag=True):
    """Load the tensors that lie end to end in the buffer, if it has the checksum."""

    specs: list[tuple[str, str, tuple[int, ...]]]
    checksum: str
    buffer: HostBuffer | DeviceBuffer | GroupBuffer


class ReadTensors(msgspec.Struct, frozen=True, tag=True):
    """Write the tensors that the model holds to their `aligned_places` in the file."""

    specs: list[tuple[str, str, tuple[int, ...]]]
    file: HostBuffer


class Order(msgspec.Struct, frozen=True):
    """What to do, and the file that the answer goes to."""

    task: LoadBucket | CheckBuffer | ReadTensors | JoinGroup | LetGo
    answer_path: str


class OrderAnswer(msgspec.Struct, frozen=True):
    """How it went."""

    refusal: str | None = None
    """Why the task was not carried out; None if it was."""
    seconds: dict[str, float] = {}
    """Time by phase: open, checksum, load."""


def as_one(answers: Sequence[OrderAnswer]) -> OrderAnswer:
    """What an engine's processes say together: the first refusal, and of each phase the longest time."""
    phases = {phase for answer in answers for phase in answer.seconds}
    return OrderAnswer(
        refusal=next((answer.refusal for answer in answers if answer.refusal is not None), None),
        seconds={phase: max(answer.seconds.get(phase, 0.0) for answer in answers) for phase in phases},
    )
