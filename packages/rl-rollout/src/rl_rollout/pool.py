"""Several engines behind one `generate`: the least loaded takes the next batch, and a failed one's work moves on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from rl_data import PolicyVersion
from rl_rollout.engine import Engine, EnginePart, GenerateRequest, Generation
from rl_rollout.errors import EngineDeadlineError, EngineError, EngineNotServingError

logger = logging.getLogger(__name__)


class VersionedEngine(Engine, Protocol):
    """An engine that tells which weights it serves."""

    def weight_version(self) -> PolicyVersion | None:
        """The version served now; None while no whole version is held.

        Answers within seconds, also while the engine generates.

        Raises:
            EngineError: if the engine is dead or does not answer.
        """
        ...


class EnginePool:
    """Spreads batches of requests over engines; loses none while one engine is left.

    A batch goes whole to the engine with the fewest requests in flight, so that samples of one prompt share its
    prefix. If that engine fails, it is taken out for good and the batch goes to another. One that lets a deadline pass
    is asked for its version: if it answers, it only has much to do, and stays. An engine whose weights are older than
    `set_policy_version` said gets nothing until the next such call finds it fresh.

    Args:
        engines: with names that differ.

    Raises:
        ValueError: if there is no engine or two have one name.
    """

    def __init__(self, engines: Sequence[VersionedEngine]) -> None:
        names = [engine.name for engine in engines]
        if not engines or len(set(names)) != len(names):
            raise ValueError(f"engine pool: expected engines with names that differ, got {names}")
        self._live = {engine.name: engine for engine in engines}
        self._all = list(engines)
        self._num_in_flight = dict.fromkeys(names, 0)
        self._failed: dict[str, str] = {}
        self._stale: dict[str, str] = {}
        self._expected_version: PolicyVersion | None = None

    @property
    def engines(self) -> tuple[VersionedEngine, ...]:
        """The engines that have not failed, stale ones included."""
        return tuple(self._live.values())

    @property
    def failed(self) -> Mapping[str, str]:
        """Why engines were taken out, by name."""
        return dict(self._failed)

    @property
    def stale(self) -> Mapping[str, str]:
        """Why live engines get no traffic, by name."""
        return dict(self._stale)

    @property
    def policy_version(self) -> PolicyVersion:
        """What `set_policy_version` said last; 0, the version of weights from a file, before that."""
        return self._expected_version or 0

    def add(self, engine: VersionedEngine) -> None:
        """Takes an engine in, also one that has the name of a failed one.

        One that was started from the file serves version 0, and gets nothing until a present version was published to
        it and `set_policy_version` has seen that.

        Raises:
            ValueError: if a live engine has the name.
        """
        if engine.name in self._live:
            raise ValueError(f"engine pool: {engine.name} is there already")
        self._live[engine.name] = engine
        self._all.append(engine)
        self._num_in_flight[engine.name] = 0
        self._failed.pop(engine.name, None)
        self._check_version(engine)

    def set_policy_version(self, version: PolicyVersion) -> None:
        """From now on only engines that serve `version` or a later one get traffic; asks each of them.

        Raises:
            EngineError: if none does.
        """
        self._expected_version = version
        self._stale = {}
        for engine in self.engines:
            self._check_version(engine)
        self._require_fresh()

    def _check_version(self, engine: VersionedEngine) -> None:
        if self._expected_version is None:
            return
        try:
            version = engine.weight_version()
        except EngineError as error:
            self._take_out(engine, error)
            return
        if version is None or version < self._expected_version:
            self._mark_stale(engine, f"serves version {version}, expected {self._expected_version}", self._stale)

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """Answers in the order of the requests, all from one engine.

        Args:
            requests: usually those of one prompt.
            timeout_s: deadline of each attempt, with the time that requests wait in the engine; another engine gets as
                long again.

        Raises:
            RequestError: if an engine refuses a request; the engine stays.
            EngineDeadlineError: if a living engine lets the deadline pass; the engine stays. No other is asked: it
                would have as much to do.
            EngineError: if no engine is left, with the reason of each.
        """
        while True:
            self._require_fresh()
            engine = min(
                (engine for name, engine in self._live.items() if name not in self._stale),
                key=lambda candidate: self._num_in_flight[candidate.name],
            )
            answers = await self._try(engine, requests, timeout_s)
            if answers is not None:
                return answers

    async def _try(
        self, engine: VersionedEngine, requests: Sequence[GenerateRequest], timeout_s: float
    ) -> list[Generation] | None:
        """None if the engine is dead, which takes it out, or did not answer with fresh weights."""
        stale = self._stale
        self._num_in_flight[engine.name] += len(requests)
        try:
            answers = await engine.generate(requests, timeout_s=timeout_s)
        except EngineNotServingError as error:
            self._mark_stale(engine, str(error), stale)
            return None
        except EngineDeadlineError:
            if await self._is_alive(engine):
                raise
            return None
        except EngineError as error:
            self._take_out(engine, error)
            return None
        finally:
            self._num_in_flight[engine.name] -= len(requests)
        oldest = min((answer.policy_version for answer in answers), default=None)
        if oldest is not None and self._expected_version is not None and oldest < self._expected_version:
            self._mark_stale(engine, f"answered with version {oldest}, expected {self._expected_version}", stale)
            return None
        return answers

    async def _is_alive(self, engine: VersionedEngine) -> bool:
        """Whether it answers the cheapest question; it is taken out if not."""
        # A SGLang process whose model is stuck in a step ends itself (--watchdog-timeout), so that one which answers
        # has no more than much to do.
        try:
            await asyncio.to_thread(engine.weight_version)
        except EngineError as error:
            self._take_out(engine, error)
            return False
        return True

    def _take_out(self, engine: VersionedEngine, error: EngineError) -> None:
        if self._live.get(engine.name) is engine:
            del self._live[engine.name]
            self._failed[engine.name] = str(error)
            logger.error("%s is taken out of the pool, %d are left: %s", engine.name, len(self._live), error)

    def _mark_stale(self, engine: VersionedEngine, reason: str, stale: dict[str, str]) -> None:
        """Does nothing if `stale`, of when the engine was asked, is of another version: it may be fresh by now."""
        if stale is self._stale and engine.name not in stale:
            self._stale[engine.name] = reason
            logger.warning("%s gets no traffic: %s", engine.name, reason)

    def _require_fresh(self) -> None:
        if self._live.keys() <= self._stale.keys():
            reasons = "\n".join(f"- {name}: {reason}" for name, reason in {**self._failed, **self._stale}.items())
            raise EngineError(f"no engine is left that could answer:\n{reasons}")

    async def abort_all(self) -> None:
        """Ends every request in flight on every live engine; an engine that fails to is taken out."""
        await self._on_all(lambda engine: engine.abort_all())

    async def release_memory(self) -> None:
        """See `Engine.release_memory`; all live engines at once, and one that fails to is taken out.

        Raises:
            EngineError: if none is left.
        """
        await self._on_all(lambda engine: engine.release_memory())
        self._require_live()

    async def resume_memory(self, part: EnginePart) -> None:
        """See `Engine.resume_memory`; all live engines at once, and one that fails to is taken out.

        Raises:
            EngineError: if none is left.
        """
        await self._on_all(lambda engine: engine.resume_memory(part))
        self._require_live()

    async def _on_all(self, call: Callable[[VersionedEngine], Awaitable[None]]) -> None:
        async def try_one(engine: VersionedEngine) -> None:
            try:
                await call(engine)
            except EngineError as error:
                self._take_out(engine, error)

        await asyncio.gather(*(try_one(engine) for engine in self.engines))

    def _require_live(self) -> None:
        if not self._live:
            reasons = "\n".join(f"- {name}: {reason}" for name, reason in self._failed.items())
            raise EngineError(f"no engine is left:\n{reasons}")

    def close(self) -> None:
        """Closes every engine, also those that failed."""
        for engine in self._all:
            engine.close()
