"""A grader behind an HTTP address."""

import asyncio
import importlib.util
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rl_data.errors import DataError
from rl_data.grading.grade import Grade, Submission, crash, timeout
from rl_data.grading.graders.grader import Grading

if TYPE_CHECKING:
    import httpx

_FIRST_PAUSE_S = 0.1
_MAX_ANSWER_BYTES = 1 << 20


class RemoteGrader:
    """Posts {"response", "label", "metadata", "num_tokens"} as JSON; the answer is a number or {"value", "reason"}.

    A request that meets a busy or failing server (408, 429, 5xx) or a broken connection is made again after a pause
    that doubles each time, as long as there are retries and time. Time counts from a request's turn.

    Args:
        url: where to post.
        timeout_s: time for one response, all of its requests and pauses together.
        max_concurrency: responses that are asked for at the same time; others wait.
        max_retries: further requests after a first one that failed.

    Raises:
        DataError: if httpx is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float, max_concurrency: int, max_retries: int) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise DataError("rm-type remote needs httpx: pip install 'rl-data[remote]'")
        self._url = url
        self._timeout_s = timeout_s
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._is_closed = False

    def check(self, submission: Submission) -> None:
        """Any label will do: what the server needs, it says when it is asked."""

    def grade(self, submission: Submission) -> Grading:
        """What the server answers."""
        with self._lock:
            if self._is_closed:
                return crash("the pool is closed")
            self._connection = self._connection or _Connection(self._max_concurrency)
            return self._connection.run(self._ask, submission)

    def start(self) -> None:
        """Nothing takes long to start."""

    def close(self) -> None:
        """Breaks off what is being asked, which ends as a crash."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.close()

    async def _ask(self, client: "httpx.AsyncClient", submission: Submission) -> Grade:
        asked = {
            "response": submission.response,
            "label": submission.label,
            "metadata": submission.metadata,
            "num_tokens": submission.num_tokens,
        }
        try:
            body = msgspec.json.encode(asked)
        except (TypeError, ValueError) as error:  # half a surrogate pair in a text, say
            return crash(f"not sent to {self._url}: {error}")
        problem = "no answer yet"
        try:
            async with asyncio.timeout(self._timeout_s):
                for attempt in range(self._max_retries + 1):
                    if attempt:
                        await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
                    answer = await _post(client, self._url, body)
                    if isinstance(answer, Grade):
                        return answer
                    problem = answer.text
                    if answer.is_final:
                        break
        except TimeoutError:
            return timeout(f"{self._url} did not grade within {self._timeout_s:g} s: {problem}")
        return crash(f"{self._url}: {problem}")


class _Problem(NamedTuple):
    """Why a request gave no grade, and whether it is of no use to make it again."""

    text: str
    is_final: bool


async def _post(client: "httpx.AsyncClient", url: str, body: bytes) -> Grade | _Problem:
    """One request."""
    import httpx

    content = b""
    try:
        async with client.stream("POST", url, content=body, headers={"content-type": "application/json"}) as answer:
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > _MAX_ANSWER_BYTES:
                    return _Problem(f"answered more than {_MAX_ANSWER_BYTES} bytes", is_final=True)
    except httpx.HTTPError as error:
        return _Problem(f"{type(error).__name__}: {error}", is_final=False)
    # Whatever else the address or the server brings about below httpx is an outcome of this response as well.
    except Exception as error:  # noqa: BLE001
        return _Problem(f"{type(error).__name__}: {error}", is_final=True)
    if answer.status_code != 200:
        is_final = answer.status_code < 500 and answer.status_code not in (408, 429)
        return _Problem(f"answered {answer.status_code} {_shown(content)}", is_final)
    try:
        return _read_grade(content)
    except ValueError:
        return _Problem(f"expected a number or an object with value and reason, got {_shown(content)}", is_final=True)


type _Ask = Callable[["httpx.AsyncClient", Submission], Awaitable[Grade]]


class _Connection:
    """An event loop on a thread of its own, with a client whose connections are kept."""

    def __init__(self, max_concurrency: int) -> None:
        import httpx

        self._loop = asyncio.new_event_loop()
        # The deadline of a request is the caller's.
        limits = httpx.Limits(max_connections=max_concurrency)
        self._client = httpx.AsyncClient(timeout=None, limits=limits)
        self._turns = asyncio.Semaphore(max_concurrency)
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote-grader", daemon=True)
        self._thread.start()

    def run(self, ask: _Ask, submission: Submission) -> Future[Grade]:
        """The grade that `ask(client, submission)` gives, once it is its turn."""
        return asyncio.run_coroutine_threadsafe(self._in_turn(ask, submission), self._loop)

    async def _in_turn(self, ask: _Ask, submission: Submission) -> Grade:
        try:
            async with self._turns:
                return await ask(self._client, submission)
        except asyncio.CancelledError:
            return crash("the pool is closed")

    def close(self) -> None:
        """Ends everything that runs, and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._client.aclose()


def _read_grade(content: bytes) -> Grade:
    """Raises ValueError if there is no grade in it."""
    answer = msgspec.json.decode(content, type=float | _Answer)
    return Grade(value=answer) if isinstance(answer, float) else Grade(value=answer.value, reason=answer.reason)


class _Answer(msgspec.Struct):
    value: float
    reason: str = ""


def _shown(content: bytes) -> str:
    return repr(content[:80].decode(errors="replace"))
