"""A fake engine, and the checks that every engine passes, real or fake.

Example:
    >>> asyncio.run(check_engine(lambda: FakeEngine("engine 0", seconds_per_token=0.001), prompt, tensors))
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rl_data import FinishReason, PolicyVersion
from rl_rollout.engine import EnginePart, GenerateRequest, Generation, SamplingParams
from rl_rollout.errors import EngineDeadlineError, EngineError, EngineNotServingError
from rl_rollout.pool import VersionedEngine
from rl_rollout.weights import IncomingWeights, TensorSpec, checksum, flat_bytes, require_checksum


class WeightedEngine(VersionedEngine, Protocol):
    """An engine with the methods of `rl_weights.WeightSink`."""

    def begin_update(self, version: int) -> None:
        """See `rl_weights.WeightSink`."""
        ...

    def load_bucket(self, specs: Sequence[TensorSpec], buffer: NDArray[np.uint8], checksum: str) -> None:
        """See `rl_weights.WeightSink`."""
        ...

    def commit_update(self, version: int, num_tensors: int) -> None:
        """See `rl_weights.WeightSink`."""
        ...


type Respond = Callable[[GenerateRequest], Sequence[int]]


class FakeEngine:
    """An engine without a model: what it answers depends on the request alone.

    Args:
        name: how messages call it.
        respond: gives the response tokens of a request; random ones, made of its tokens and seed, if None.
        decode: gives the text of response tokens; the ids with spaces if None.
        expected: shapes of the tensors that updates must bring, by name; any if None.
        seconds_per_token: how slow it is.
        dies_after: number of requests after which it dies, with what is in flight then; never if None.
    """

    def __init__(
        self,
        name: str = "fake engine",
        *,
        respond: Respond | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        expected: Mapping[str, tuple[int, ...]] | None = None,
        seconds_per_token: float = 0.0,
        dies_after: int | None = None,
    ) -> None:
        self._name = name
        self._respond = respond or _random_tokens
        self._decode = decode or _ids_as_text
        self._expected = expected
        self._seconds_per_token = seconds_per_token
        self._dies_after = dies_after
        self._version: PolicyVersion | None = 0
        self._incoming: IncomingWeights | None = None
        self._released: set[EnginePart] = set()
        self._death: str | None = None
        self._in_flight: set[asyncio.Event] = set()
        self.num_requests = 0
        """Requests it has taken so far."""
        self.calls: list[str] = []
        """Control calls in order, for example "begin 1"."""

    @property
    def name(self) -> str:
        """How messages call it."""
        return self._name

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """See `Engine.generate`."""
        self._require_life()
        if self._version is None:
            raise EngineNotServingError(f"{self._name}: holds no whole set of weights, so it serves nothing")
        if self._released:
            raise EngineNotServingError(f"{self._name}: {' and '.join(sorted(self._released))} are not in memory")
        version = self._version
        aborted = asyncio.Event()
        self._in_flight.add(aborted)
        try:
            async with asyncio.timeout(timeout_s):
                return [answer for answer in await asyncio.gather(*(self._one(r, version, aborted) for r in requests))]
        except TimeoutError as error:
            if isinstance(error, EngineError):
                raise
            doing = f"generating {len(requests)} responses"
            raise EngineDeadlineError(f"{self._name}: no answer within {timeout_s:g} s while {doing}") from None
        finally:
            self._in_flight.discard(aborted)

    async def _one(self, request: GenerateRequest, version: PolicyVersion, aborted: asyncio.Event) -> Generation:
        self.num_requests += 1
        wanted = list(self._respond(request))[: request.sampling.max_new_tokens]
        num_tokens, seconds = len(wanted), len(wanted) * self._seconds_per_token
        started = time.monotonic()
        try:
            await asyncio.wait_for(aborted.wait(), seconds)
        except TimeoutError:
            pass
        else:
            num_tokens = min(num_tokens, int((time.monotonic() - started) / self._seconds_per_token))
        if self._dies_after is not None and self.num_requests >= self._dies_after:
            self.die("killed on purpose")
        self._require_life()
        tokens = wanted[:num_tokens]
        start = request.tokens.size if request.response_start is None else request.response_start
        begun: list[int] = request.tokens[start:].tolist()
        reason = FinishReason.LENGTH if num_tokens == request.sampling.max_new_tokens else FinishReason.STOP
        return Generation(
            request_id=request.request_id,
            tokens=np.array(tokens, np.int32),
            logprobs=np.array([-(1 + token) / 1000 for token in tokens], np.float32),
            text=self._decode([*begun, *tokens]),
            finish_reason=FinishReason.ABORT if num_tokens < len(wanted) else reason,
            policy_version=version,
        )

    def die(self, reason: str) -> None:
        """Makes every call in flight and every later one fail, as if its process had been killed."""
        self._death = f"{self._name}: its process ended ({reason})"

    def _require_life(self) -> None:
        if self._death is not None:
            raise EngineError(self._death)

    async def abort_all(self) -> None:
        """See `Engine.abort_all`."""
        self._require_life()
        for aborted in self._in_flight:
            aborted.set()

    async def release_memory(self) -> None:
        """See `Engine.release_memory`."""
        self._require_life()
        if self._released != set(EnginePart):
            self.calls.append("release")
            self._version, self._incoming, self._released = None, None, set(EnginePart)

    async def resume_memory(self, part: EnginePart) -> None:
        """See `Engine.resume_memory`."""
        self._require_life()
        if part in self._released:
            self.calls.append(f"resume {part}")
            self._released.discard(part)

    def begin_update(self, version: int) -> None:
        """See `rl_weights.WeightSink`."""
        self._require_life()
        if EnginePart.WEIGHTS in self._released:
            raise EngineError(f"{self._name}: version {version} came before the memory of its weights was back")
        self.calls.append(f"begin {version}")
        self._version = None
        self._incoming = IncomingWeights(self._name, version, self._expected)

    def load_bucket(self, specs: Sequence[TensorSpec], buffer: NDArray[np.uint8], checksum: str) -> None:
        """See `rl_weights.WeightSink`; the bytes are checked and dropped."""
        self._require_life()
        if self._incoming is None:
            raise EngineError(f"{self._name}: a weight bucket came before begin_update")
        flat = flat_bytes(buffer)
        require_checksum(self._incoming.check(specs, flat.size), flat, checksum)
        self._incoming.add(specs)
        self.calls.append(f"load {len(specs)}")

    def commit_update(self, version: int, num_tensors: int) -> None:
        """See `rl_weights.WeightSink`."""
        self._require_life()
        if self._incoming is None:
            raise EngineError(f"{self._name}: commit_update of version {version} came before begin_update")
        self._incoming.finish(version, num_tensors)
        self.calls.append(f"commit {version}")
        self._incoming = None
        self._version = version

    def weight_version(self) -> PolicyVersion | None:
        """See `rl_weights.WeightSink`."""
        self._require_life()
        return self._version

    def close(self) -> None:
        """See `Engine.close`."""
        self.die("closed")


def _ids_as_text(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens))


def _random_tokens(request: GenerateRequest) -> list[int]:
    seed = [request.seed, *request.tokens.tolist()]
    return np.random.default_rng(seed).integers(0, 256, request.sampling.max_new_tokens).tolist()


def make_requests(
    prompt: NDArray[np.int32], seeds: Sequence[int], *, max_new_tokens: int = 8, temperature: float = 1.0
) -> list[GenerateRequest]:
    """A request a seed, all of one prompt."""
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature)
    return [
        GenerateRequest(request_id=f"request {seed}", tokens=prompt, sampling=sampling, seed=seed) for seed in seeds
    ]


async def check_engine(
    make_engine: Callable[[], WeightedEngine],
    prompt: NDArray[np.int32],
    tensors: Sequence[tuple[str, NDArray[np.float32]]],
) -> None:
    """Makes an engine and puts it through every check of this module; see them for the arguments. Closes it.

    Raises:
        AssertionError: if a promise is broken.
    """
    engine = make_engine()
    try:
        await check_generation(engine, prompt)
        await check_weight_updates(engine, prompt, tensors)
        await check_memory(engine, prompt, tensors)
    finally:
        await check_closing(engine, prompt)


async def check_generation(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    """What `Engine.generate` promises: order, alignment, limits, texts, deadline, abort. Leaves the engine serving.

    Args:
        engine: one that needs at least 0.2 s for 16 responses of 400 tokens, so that they can be cut off, and that
            honours seeds, as a `SGLangEngine` on a GPU does with the server argument `enable_deterministic_inference`.
        prompt: [P] token ids that the engine's model knows.

    Raises:
        AssertionError: if a promise is broken.
    """
    requests = make_requests(prompt, range(6))
    answers = await engine.generate(requests, timeout_s=120)
    assert [answer.request_id for answer in answers] == [request.request_id for request in requests]
    for answer in answers:
        assert answer.tokens.dtype == np.int32
        assert answer.logprobs.dtype == np.float32
        assert answer.tokens.shape == answer.logprobs.shape
        assert 0 < len(answer.tokens) <= 8
        assert (answer.logprobs <= 0).all()
        assert answer.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert answer.policy_version == engine.weight_version()
    assert len({answer.tokens.tobytes() for answer in answers}) > 1, "seeds of a group gave equal responses"
    [again] = await engine.generate([requests[4]], timeout_s=120)
    assert again.tokens.tolist() == answers[4].tokens.tolist(), "a seed did not give its response again"
    assert await engine.generate([], timeout_s=120) == []
    await _check_continuing(engine, prompt)
    await _check_cutting_off(engine, prompt)


async def _check_continuing(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    [begun] = await engine.generate(make_requests(prompt, [1], temperature=0.0), timeout_s=120)
    [request] = make_requests(np.concatenate([prompt, begun.tokens[:4]]), [1], temperature=0.0)
    rest, whole = await engine.generate([request, replace(request, response_start=prompt.size)], timeout_s=120)
    assert rest.tokens.tolist() == whole.tokens.tolist()
    end = rest.text.lstrip("\ufffd")  # it may begin within a character
    assert whole.text.endswith(end), f"expected the text of the whole response, got {whole.text!r}"
    assert whole.text != end, f"expected the text of the whole response, got {whole.text!r}"


async def _check_cutting_off(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    long = make_requests(prompt, range(16), max_new_tokens=400)
    error = await _error_of(engine.generate(long, timeout_s=0.05))
    assert isinstance(error, EngineDeadlineError), f"expected EngineDeadlineError, got {error!r}"
    assert engine.name in str(error)
    assert "generating 16 responses" in str(error)
    pending = asyncio.ensure_future(engine.generate(long, timeout_s=120))
    while not pending.done():  # more than once: on a busy machine an engine may learn of the requests after the abort
        await asyncio.sleep(0.05)
        await engine.abort_all()
    reasons = {answer.finish_reason for answer in await pending}
    assert FinishReason.ABORT in reasons, f"abort_all cut nothing off: {reasons}"


async def check_weight_updates(
    engine: WeightedEngine, prompt: NDArray[np.int32], tensors: Sequence[tuple[str, NDArray[np.float32]]]
) -> None:
    """What a weight sink promises: it serves only whole versions. Leaves the engine serving version 8.

    Args:
        engine: one that serves.
        prompt: [P] token ids that the engine's model knows.
        tensors: every tensor of the engine's model under its Hugging Face name, at least two.

    Raises:
        AssertionError: if a promise is broken.
    """
    middle = len(tensors) // 2
    buckets = [_bucket(tensors[:middle]), _bucket(tensors[middle:])]
    engine.begin_update(7)
    await _check_refusal(engine, prompt)
    specs, buffer = buckets[0]
    error = await _error_of(asyncio.to_thread(engine.load_bucket, specs, buffer, "0" * 16))
    assert "checksum" in str(error), f"a damaged bucket gave {error!r}"
    engine.load_bucket(specs, buffer, checksum(buffer))
    error = await _error_of(asyncio.to_thread(engine.commit_update, 7, len(tensors)))
    assert str(len(tensors)) in str(error), f"half an update gave {error!r}"
    await _check_refusal(engine, prompt)
    await _check_update(engine, prompt, tensors, 8)


async def check_memory(
    engine: WeightedEngine, prompt: NDArray[np.int32], tensors: Sequence[tuple[str, NDArray[np.float32]]]
) -> None:
    """What an engine promises that gives its memory up and takes it back. Leaves the engine serving version 9.

    See `check_weight_updates` for the arguments.

    Raises:
        AssertionError: if a promise is broken.
    """
    await engine.resume_memory(EnginePart.KV_CACHE)  # nothing was given up: nothing happens
    before = await engine.generate(make_requests(prompt, [1]), timeout_s=60)
    await engine.release_memory()
    for _ in range(2):  # the second time, of an engine that has its weights back
        await engine.release_memory()
        await _check_refusal(engine, prompt)
        error = await _error_of(asyncio.to_thread(engine.begin_update, 9))
        assert error is not None, "weights came though their memory was given up"
        await engine.resume_memory(EnginePart.WEIGHTS)
        await _check_refusal(engine, prompt)
        await _check_update(engine, prompt, tensors, 9, is_served=False)
    await engine.resume_memory(EnginePart.KV_CACHE)
    after = await engine.generate(make_requests(prompt, [1]), timeout_s=60)
    assert after[0].policy_version == 9
    assert after[0].tokens.tolist() == before[0].tokens.tolist(), "the same weights gave another response"


async def check_memory_kept(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    """What an engine promises that gives no memory up: it says so, and goes on serving what it serves.

    Raises:
        AssertionError: if not.
    """
    version = engine.weight_version()
    error = await _error_of(engine.release_memory())
    assert error is not None, "memory was given up; check_memory is for such an engine"
    assert engine.name in str(error)
    await engine.resume_memory(EnginePart.KV_CACHE)
    [answer] = await engine.generate(make_requests(prompt, [1]), timeout_s=60)
    assert answer.policy_version == version == engine.weight_version()


async def _check_refusal(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    assert engine.weight_version() is None
    error = await _error_of(engine.generate(make_requests(prompt, [1]), timeout_s=60))
    assert isinstance(error, EngineNotServingError), f"expected EngineNotServingError, got {error!r}"
    assert engine.name in str(error)


async def _check_update(
    engine: WeightedEngine,
    prompt: NDArray[np.int32],
    tensors: Sequence[tuple[str, NDArray[np.float32]]],
    version: int,
    *,
    is_served: bool = True,
) -> None:
    middle = len(tensors) // 2
    engine.begin_update(version)
    for specs, buffer in (_bucket(tensors[:middle]), _bucket(tensors[middle:])):
        engine.load_bucket(specs, buffer, checksum(buffer))
    engine.commit_update(version, len(tensors))
    assert engine.weight_version() == version
    if is_served:
        [answer] = await engine.generate(make_requests(prompt, [1]), timeout_s=60)
        assert answer.policy_version == version
    else:
        error = await _error_of(engine.generate(make_requests(prompt, [1]), timeout_s=60))
        assert isinstance(error, EngineNotServingError), f"it served without its KV cache: {error!r}"


async def check_closing(engine: WeightedEngine, prompt: NDArray[np.int32]) -> None:
    """After `close` every call fails, naming the engine, and closing again does nothing.

    Raises:
        AssertionError: if not.
    """
    engine.close()
    engine.close()
    error = await _error_of(engine.generate(make_requests(prompt, [1]), timeout_s=10))
    assert error is not None, "a closed engine answered"
    assert engine.name in str(error)


async def _error_of(call: Awaitable[object]) -> EngineError | None:
    """The error that the call ends with; None if it succeeds."""
    try:
        await call
    except EngineError as error:
        return error
    return None


def _bucket(tensors: Sequence[tuple[str, NDArray[np.float32]]]) -> tuple[list[TensorSpec], NDArray[np.uint8]]:
    specs: list[TensorSpec] = [(name, str(array.dtype), array.shape) for name, array in tensors]
    return specs, np.frombuffer(b"".join(array.tobytes() for _, array in tensors), np.uint8)
