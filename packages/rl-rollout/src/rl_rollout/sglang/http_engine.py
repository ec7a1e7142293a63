"""`HTTPEngine`: a SGLang server that somebody else started, reached by its address.

Needs `pip install rl-rollout[http]`.
"""

import asyncio
import functools
import importlib.util
import json
import secrets
import shutil
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from rl_data import FinishReason, PolicyVersion
from rl_rollout.engine import EnginePart, GenerateRequest, Generation
from rl_rollout.errors import EngineDeadlineError, EngineError, EngineNotServingError, RequestError, RolloutConfigError
from rl_rollout.sglang.config import EngineConfig
from rl_rollout.sglang.http_wire import base_url, safetensors_header, sampling_json
from rl_rollout.sglang.stops import without_end, without_stop_string
from rl_rollout.weights import (
    IncomingWeights,
    TensorSpec,
    checkpoint_shapes,
    flat_bytes,
    require_checksum,
)

if TYPE_CHECKING:
    import ssl

    import httpx
    import torch

_POLL_S = 0.5
_CONTROL_S = 20.0
_BAD_REQUEST = 400


class _NoAnswerError(EngineError):
    """A server that cannot be reached, or says itself that it cannot serve: it may be starting."""


class HTTPEngine:
    """An `Engine` and a weight sink over SGLang's HTTP interface: JSON both ways, nothing is unpickled.

    Weights go by a folder that the server's machine has under the same path, as safetensors files, one for each bucket;
    SGLang loads them when all have come. Every answer of SGLang says which weights drew it, so an answer of a version
    that this publisher did not make is never taken for one. The object can be passed to other processes.

    Args:
        address: "http://HOST:PORT" or "HOST:PORT".
        name: how messages call the engine.
        model_path: a Hugging Face model folder, as the server serves it. A name on a hub is none.
        weights_folder: in it this handle makes a folder of its own for versions, of which the latest stays there until
            `close`. What a process that was killed left stays too: clear it first, or give a folder that is cleared.
        config: deadlines.
        api_key: what the server was started with as `--api-key`, if anything.

    Raises:
        RolloutConfigError: if the address is none, the folder holds no model, or httpx is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        model_path: str | Path,
        weights_folder: str | Path,
        config: EngineConfig | None = None,
        api_key: str | None = None,
    ) -> None:
        self._name = f"{name} at {address}"
        self._url = base_url(address)
        self._model_path = Path(model_path)
        if not (self._model_path / "config.json").is_file():
            raise RolloutConfigError(f"{name}: expected a model folder, {model_path} has no config.json")
        if importlib.util.find_spec("httpx") is None:
            raise RolloutConfigError(f"{name}: a server elsewhere needs httpx: pip install 'rl-rollout[http]'")
        self._stream = secrets.token_hex(8)
        self._folder = Path(weights_folder).absolute() / f"{name.replace(' ', '-')}-{self._stream}"
        self._config = config or EngineConfig()
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._incoming: IncomingWeights | None = None
        self._weight_map: dict[str, str] = {}
        self._is_closed = False
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_clients": None}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._clients = weakref.WeakKeyDictionary()

    @property
    def name(self) -> str:
        """How messages call this engine."""
        return self._name

    def wait_ready(self, timeout_s: float | None = None) -> Mapping[str, float]:
        """Returns once the server answers.

        Raises:
            EngineDeadlineError: if it does not within `timeout_s` (default: engine_start_timeout_s).
            EngineError: at once, if it refuses to, as for another API key, or is no SGLang server.
        """
        self._require_open()
        started = time.monotonic()
        limit_s = self._config.engine_start_timeout_s if timeout_s is None else timeout_s
        while True:
            try:
                self._control("GET", "/model_info", None, _CONTROL_S, "telling its model")
            except (EngineDeadlineError, _NoAnswerError) as error:
                if time.monotonic() - started > limit_s:
                    raise EngineDeadlineError(f"{self._name}: not ready within {limit_s:g} s: {error}") from error
                time.sleep(_POLL_S)
            else:
                return {"answer": time.monotonic() - started}

    def check_server(self) -> int | None:
        """The context length that the server was started with, if one was chosen, where all else is as it has to be.

        Raises:
            RolloutConfigError: if it serves another kind of model, changes how samples are drawn, or gives no text.
            EngineError: if it does not answer as SGLang does.
            RequestError: if it refuses to.
        """
        doing = "telling its model"
        model = self._control("GET", "/model_info", None, _CONTROL_S, doing)
        config = json.loads((self._model_path / "config.json").read_text())
        for name in ("model_type", "architectures"):
            served, expected = self._field(model, name, doing), config.get(name)
            if expected is not None and served != expected:
                raise RolloutConfigError(f"{self._name}: it serves {name} {served}, {self._model_path} has {expected}")
        preferred = self._field(model, "preferred_sampling_params", doing)
        if preferred:
            raise RolloutConfigError(
                f"{self._name}: it was started with --preferred-sampling-params {preferred}, which change the samples"
            )
        doing = "telling its settings"
        settings = self._control("GET", "/server_info", None, _CONTROL_S, doing)
        if self._field(settings, "skip_tokenizer_init", doing):
            raise RolloutConfigError(
                f"{self._name}: it was started with --skip-tokenizer-init, and gives no text to grade"
            )
        length = self._field(settings, "context_length", doing)
        return length if isinstance(length, int) else None

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """See `Engine.generate`. A request that is given up is aborted by the server, which sees the connection end.

        Raises:
            RequestError: if SGLang refuses a request.
        """
        self._require_open()
        if self._incoming is not None:
            raise EngineNotServingError(f"{self._name}: holds no whole set of weights, so it serves nothing")
        if not requests:
            return []
        body: dict[str, object] = {
            "input_ids": [request.tokens.tolist() for request in requests],
            "sampling_params": [sampling_json(request.sampling, request.seed) for request in requests],
            "return_logprob": True,
        }
        doing = f"generating {len(requests)} responses"
        try:
            async with asyncio.timeout(timeout_s):
                answers = await self._post("/generate", body, doing)
                generations = self._generations(requests, answers)
                return await self._with_whole_texts(requests, generations, answers)
        except TimeoutError:
            raise EngineDeadlineError(f"{self._name}: no answer within {timeout_s:g} s while {doing}") from None
        except _http_errors() as error:
            raise EngineError(f"{self._name}: failed while {doing}: {error!r}") from error

    async def _post(self, path: str, body: Mapping[str, object], doing: str) -> Any:
        return self._content(await self._client().post(path, json=body, timeout=None), doing)

    async def _with_whole_texts(
        self, requests: Sequence[GenerateRequest], generations: Sequence[Generation], answers: Sequence[Any]
    ) -> list[Generation]:
        """The answers, those that continue a response with the text of all of it, which the server decodes anew."""
        whole = list(generations)
        for number, (request, generation) in enumerate(zip(requests, generations, strict=True)):
            if request.response_start is None:
                continue
            matched = answers[number]["meta_info"]["finish_reason"].get("matched")
            tokens = request.tokens[request.response_start :].tolist()
            body = {
                "tokens": tokens + without_end(generation.tokens.tolist(), matched),
                "skip_special_tokens": request.sampling.skip_special_tokens,
            }
            doing = f"decoding the response of request {request.request_id}"
            decoded = self._object(await self._post("/detokenize", body, doing), doing)
            text = without_stop_string(str(self._field(decoded, "text", doing)), matched)
            whole[number] = replace(generation, text=text)
        return whole

    async def abort_all(self) -> None:
        """See `Engine.abort_all`; also of what others asked of the server."""
        body = {"rid": "", "abort_all": True}
        await asyncio.to_thread(self._control, "POST", "/abort_request", body, _CONTROL_S, "aborting requests")

    async def release_memory(self) -> None:
        """Not offered.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{self._name}: it has its GPUs to itself, and gives no memory up")

    async def resume_memory(self, part: EnginePart) -> None:
        """Does nothing: nothing was given up."""

    def begin_update(self, version: int) -> None:
        """Begins a version's folder. The server goes on with the weights that it has."""
        self._require_open()
        self._incoming = IncomingWeights(self._name, version, checkpoint_shapes(self._model_path))
        self._weight_map = {}
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        shutil.copyfile(self._model_path / "config.json", self._partial / "config.json")

    def load_bucket(
        self, specs: Sequence[TensorSpec], buffer: "torch.Tensor | NDArray[np.uint8]", checksum: str
    ) -> None:
        """Writes tensors that lie end to end in the flat uint8 buffer, in host memory, into a file of the folder.

        Raises:
            EngineError: naming the bucket, if it is damaged or does not belong to the model.
        """
        if self._incoming is None:
            raise EngineError(f"{self._name}: a weight bucket came before begin_update")
        content = flat_bytes(buffer)
        where = self._incoming.check(specs, content.size)
        require_checksum(where, content, checksum)
        file = f"model-{len(list(self._partial.glob('*.safetensors'))):05d}.safetensors"
        with (self._partial / file).open("wb") as out:
            out.write(safetensors_header(specs))
            out.write(memoryview(content))
        self._weight_map |= {name: file for name, _, _ in specs}
        self._incoming.add(specs)

    def commit_update(self, version: int, num_tensors: int) -> None:
        """Has the server load the folder and forget its KV cache; returns when it serves as `version`.

        Raises:
            EngineError: if anything is missing, or SGLang refuses it; what it answers then is of no new version.
        """
        if self._incoming is None:
            raise EngineError(f"{self._name}: commit_update of version {version} came before begin_update")
        self._incoming.finish(version, num_tensors)
        index = {"metadata": {}, "weight_map": self._weight_map}
        (self._partial / "model.safetensors.index.json").write_text(json.dumps(index))
        folder = self._folder / f"version-{version}"
        shutil.rmtree(folder, ignore_errors=True)
        self._partial.rename(folder)
        body = {"model_path": str(folder), "weight_version": f"{self._stream}:{version}", "flush_cache": True}
        limit_s = self._config.engine_update_timeout_s
        answer = self._control("POST", "/update_weights_from_disk", body, limit_s, f"loading {folder}")
        if not answer.get("success"):
            raise EngineError(f"{self._name}: version {version} was not loaded from {folder}: {answer.get('message')}")
        self._incoming = None
        for other in self._folder.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def weight_version(self) -> PolicyVersion | None:
        """The version served now; None while an update is under way, and for weights of another publisher.

        Raises:
            EngineError: if the server does not answer.
        """
        if self._incoming is not None:
            return None
        info = self._control("GET", "/model_info", None, _CONTROL_S, "telling its weight version")
        return self._version_of(self._field(info, "weight_version", "telling its weight version"))

    def close(self) -> None:
        """Removes the folder of versions; every later call of this handle fails. The server goes on."""
        self._is_closed, self._incoming = True, None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> None:
        if self._is_closed:
            raise EngineError(f"{self._name}: this handle of it was closed")

    @property
    def _partial(self) -> Path:
        return self._folder / "partial"

    def _version_of(self, said: object) -> PolicyVersion | None:
        stream, _, version = str(said).partition(":")
        return int(version) if stream == self._stream and version.isdecimal() else None

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            self._clients[loop] = httpx.AsyncClient(
                base_url=self._url, headers=self._headers, limits=limits, verify=_authorities(), trust_env=False
            )
        return self._clients[loop]

    def _control(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float, doing: str
    ) -> Mapping[str, Any]:
        import httpx

        self._require_open()
        try:
            response = httpx.request(
                method,
                self._url + path,
                json=body,
                headers=self._headers,
                timeout=timeout_s,
                verify=_authorities(),
                trust_env=False,  # no proxy of the environment sees the key and the prompts
            )
        except httpx.TimeoutException:
            raise EngineDeadlineError(f"{self._name}: no answer within {timeout_s:g} s while {doing}") from None
        except _http_errors() as error:
            raise _NoAnswerError(f"{self._name}: failed while {doing}: {error!r}") from error
        if path == "/update_weights_from_disk" and response.status_code == _BAD_REQUEST:
            return self._object(self._json(response, doing), doing)  # it says itself what went wrong
        return {} if path == "/abort_request" else self._object(self._content(response, doing), doing)

    def _content(self, response: "httpx.Response", doing: str) -> Any:
        """What the answer says.

        Raises:
            RequestError: if the request was refused.
            EngineError: if the server failed, or is no SGLang server.
        """
        if response.status_code == _BAD_REQUEST:
            raise RequestError(f"{self._name}: refused while {doing}: {response.text}")
        if response.is_error:
            kind = _NoAnswerError if response.is_server_error else EngineError
            raise kind(f"{self._name}: status {response.status_code} while {doing}: {response.text}")
        return self._json(response, doing)

    def _json(self, response: "httpx.Response", doing: str) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise EngineError(f"{self._name}: expected JSON while {doing}, got {response.text[:100]!r}") from error

    def _object(self, content: object, doing: str) -> Mapping[str, Any]:
        if not isinstance(content, dict):
            raise EngineError(f"{self._name}: expected a JSON object while {doing}, got {str(content)[:100]!r}")
        return cast("Mapping[str, Any]", content)

    def _field(self, answer: Mapping[str, Any], key: str, doing: str) -> Any:
        if key not in answer:
            raise EngineError(f"{self._name}: expected {key} while {doing}, got {', '.join(answer) or 'nothing'}")
        return answer[key]

    def _generations(self, requests: Sequence[GenerateRequest], answers: object) -> list[Generation]:
        if not isinstance(answers, list) or len(cast("list[Any]", answers)) != len(requests):
            got = str(cast("object", answers))[:100]
            raise EngineError(f"{self._name}: expected {len(requests)} answers, got {got!r}")
        return [
            self._generation(request, answer)
            for request, answer in zip(requests, cast("list[Any]", answers), strict=True)
        ]

    def _generation(self, request: GenerateRequest, answer: Mapping[str, Any]) -> Generation:
        """The answer to one request.

        Raises:
            RequestError: if the request was refused.
            EngineError: if other weights drew it, or it is no answer of SGLang's.
        """
        try:
            return self._read_generation(request, answer)
        except RequestError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            got = str(answer)[:200]
            raise EngineError(
                f"{self._name}: expected an answer of SGLang's /generate, got {got!r}: {error!r}"
            ) from error

    def _read_generation(self, request: GenerateRequest, answer: Mapping[str, Any]) -> Generation:
        meta = answer["meta_info"]
        version = self._version_of(meta["weight_version"])
        if version is None:
            raise EngineNotServingError(
                f"{self._name}: answered with weights {meta['weight_version']!r}, which are not this run's"
            )
        tokens, reason = answer["output_ids"], meta["finish_reason"]
        logprobs = [logprob for logprob, *_ in meta["output_token_logprobs"]]
        if reason["type"] == "abort":
            if reason.get("status_code") == _BAD_REQUEST:
                raise RequestError(f"{self._name}: request {request.request_id}: {reason['message']}")
            tokens, logprobs = tokens[: len(logprobs)], logprobs[: len(tokens)]
        if len(tokens) != len(logprobs):
            raise EngineError(f"{self._name}: {len(tokens)} tokens and {len(logprobs)} log-probabilities came")
        return Generation(
            request_id=request.request_id,
            tokens=np.array(tokens, np.int32),
            logprobs=np.array(logprobs, np.float32),
            text=answer["text"],
            finish_reason=FinishReason(reason["type"]),
            policy_version=version,
        )


@functools.cache  # every call would read the files of hundreds of authorities
def _authorities() -> "ssl.SSLContext":
    """Whom to believe who a server is: the environment may name them (SSL_CERT_FILE), unlike a proxy."""
    import httpx

    return httpx.create_ssl_context()


def _http_errors() -> tuple[type[Exception], ...]:
    import httpx

    return httpx.HTTPError, httpx.InvalidURL
