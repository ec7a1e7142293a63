"""What the rest of rl-rollout asks of an inference engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rl_data import FinishReason, PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. Names follow the OpenAI interface where it has one."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    """-1: the whole vocabulary."""
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    skip_special_tokens: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerateRequest:
    """One response to draw. P = prompt tokens (for a continuation, the partial response included)."""

    request_id: str
    tokens: NDArray[np.int32]
    """[P] token ids to continue."""
    sampling: SamplingParams
    seed: int
    """Seed of this request alone. Requests of one group must differ in it, or a deterministic engine repeats itself."""
    response_start: int | None = None
    """Of a continuation: where in `tokens` the response begins. The answer's text is then of the whole response."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """The answer to one request. R = number of new tokens."""

    request_id: str
    tokens: NDArray[np.int32]
    """[R] new token ids, the end token included."""
    logprobs: NDArray[np.float32]
    """[R] log-probability of each new token under the distribution that `SamplingParams.temperature` gives."""
    text: str
    """Of the new tokens or, as a cut may be within a character, of the whole response that they continue."""
    finish_reason: FinishReason
    policy_version: PolicyVersion
    """Version of the weights that drew every token of this answer."""


class EnginePart(StrEnum):
    """Memory that an engine takes back by itself. After training: weights back, publish into them, KV cache back."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    """With the memory of CUDA graphs, where an engine can give that up."""


@runtime_checkable
class Engine(Protocol):
    """An inference engine, in this process or behind an actor handle.

    Weights arrive through the methods of `rl_weights.WeightSink`, which engines also have.
    """

    @property
    def name(self) -> str:
        """How messages call this engine, for example "engine 0"."""
        ...

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """Answers in the order of the requests. If the call is cancelled, they are aborted.

        Raises:
            EngineDeadlineError: if not all answers came within `timeout_s`; what was in flight is aborted.
            EngineError: if the engine is dead or holds no whole set of weights.
        """
        ...

    async def abort_all(self) -> None:
        """Ends every request in flight; each returns what it has, with FinishReason.ABORT."""
        ...

    async def release_memory(self) -> None:
        """Gives up the memory of weights and KV cache, once no request is in flight; does nothing if both are given up.

        The engine serves again when whole weights were published and every part is back. So it is on a CPU too,
        though the memory stays where it is.

        Raises:
            EngineError: if the engine gives no memory up, as one that others own. It goes on serving.
        """
        ...

    async def resume_memory(self, part: EnginePart) -> None:
        """Takes a part back, its contents void; does nothing if the part was not given up."""
        ...

    def close(self) -> None:
        """Ends the engine and every process it started. Every later call but this one raises EngineError."""
        ...
