"""`SGLangEngine`: a SGLang engine in a process of its own, which takes tokens, gives tokens and takes weights."""

import asyncio
import concurrent.futures
import contextlib
import logging
import mmap
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from rl_data import FinishReason, PolicyVersion
from rl_data.json import JsonValue
from rl_rollout.engine import EnginePart, GenerateRequest, Generation
from rl_rollout.errors import (
    EngineDeadlineError,
    EngineError,
    EngineNotServingError,
    RequestError,
)
from rl_rollout.sglang.config import EngineConfig, ServerArguments, chosen_arguments, host_environment, require_model
from rl_rollout.sglang.messages import (
    Abort,
    Answer,
    CheckBuffer,
    DeviceBuffer,
    Drain,
    Flush,
    Generate,
    GroupBuffer,
    JoinGroup,
    LetGo,
    Load,
    ProcessIds,
    ReadBack,
    Ready,
    Release,
    Resume,
    Task,
    WireGeneration,
    WireRequest,
    WireSampling,
    memory_file,
)
from rl_rollout.sglang.process import HostProcess
from rl_rollout.sglang.sharing import BufferSharer, is_on_gpu
from rl_rollout.sglang.weight_orders import LOADER
from rl_rollout.weight_copy import CopiedVersion, WeightCopy
from rl_rollout.weights import IncomingWeights, TensorSpec, aligned_places, checkpoint_shapes, flat_bytes
from rl_rollout.weights import checksum as checksum_of

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_ABORT_WAIT_S = 10.0
# SGLang's names of the memory that each part has.
_TAGS = {EnginePart.WEIGHTS: ["weights"], EnginePart.KV_CACHE: ["kv_cache", "cuda_graph"]}


class SGLangEngine:
    """An `Engine` and a weight sink. The constructor returns at once; calls wait until the engine is ready.

    On a CPU it runs in float32 with requests reproducible by their seed. On a GPU seeds are honoured if the server
    argument `enable_deterministic_inference` is set.

    Until the first `begin_update` it serves the folder's weights as version 0 (random weights not at all), also one
    that is started in the place of another in mid-run. Versions that are published count from 1, so that an
    `EnginePool` gives it no traffic before it has a present one; who asks it directly looks at `weight_version`.

    Args:
        model_path: a Hugging Face model folder, with the tokenizer.
        name: how messages call this engine.
        server_args: SGLang's server arguments, without their dashes; those that this class sets itself are refused.
        config: deadlines and threads.
        needs_tokenizer: lets SGLang load the tokenizer, for requests with `stop` strings or `min_new_tokens`; costs
            start-up time and a process.
        has_remote_writer: whether weights may come over NCCL from another machine; if not, NCCL keeps to loopback.

    Raises:
        RolloutConfigError: if the folder holds no model or a server argument is not the caller's to set.

    Example:
        >>> with SGLangEngine("runs/quickstart/model") as engine:
        ...     answers = asyncio.run(engine.generate(requests, timeout_s=60))
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        name: str = "engine",
        server_args: Mapping[str, JsonValue] | ServerArguments | None = None,
        config: EngineConfig | None = None,
        needs_tokenizer: bool = False,
        has_remote_writer: bool = False,
    ) -> None:
        self._name = name
        self._model_path = Path(model_path)
        require_model(self._model_path, name)
        self._config = config or EngineConfig()
        self._needs_tokenizer = needs_tokenizer
        chosen = chosen_arguments(server_args)
        # Random weights are no version of any policy.
        self._version: PolicyVersion | None = None if chosen.get("load_format") == "dummy" else 0
        self._incoming: IncomingWeights | None = None
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._sharer = BufferSharer()
        self._copy: WeightCopy | None = None
        self._held_copy: CopiedVersion | None = None
        """The version of the copy that the model holds whole; None while an update is under way."""
        self._earlier_copy: CopiedVersion | None = None
        self._incoming_copy: CopiedVersion | None = None
        self._update_seconds: dict[str, float] = {}
        self._released: set[EnginePart] = set()
        self._saves_memory = chosen.get("enable_memory_saver") is True
        self._serving = threading.Lock()
        self._started = time.monotonic()
        self._host = HostProcess(
            name,
            {
                "log_level": "warning",
                **chosen,
                "model_path": str(model_path),
                "skip_tokenizer_init": not needs_tokenizer,
                "custom_weight_loader": [LOADER],
            },
            host_environment(chosen, self._config.engine_num_threads, has_remote_writer=has_remote_writer),
        )

    @property
    def name(self) -> str:
        """How messages call this engine."""
        return self._name

    def wait_ready(self, timeout_s: float | None = None) -> Mapping[str, float]:
        """Seconds of the start by phase, once the engine can serve.

        Raises:
            EngineDeadlineError: if it takes longer than `timeout_s` (default: what is left of engine_start_timeout_s).
            EngineError: with the end of the engine's log, if it failed to start.
        """
        return dict(self._ready(timeout_s).seconds)

    def process_ids(self) -> list[int]:
        """Ids of the host process and of those it started."""
        return self._call(ProcessIds(), 10.0, "listing its processes").process_ids

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """See `Engine.generate`. Time that the engine still needs to start counts.

        Raises:
            RequestError: if SGLang refuses a request; the others of the call are aborted.
        """
        deadline = time.monotonic() + timeout_s
        ready = await self._until(deadline, asyncio.wrap_future(self._host.ready), "starting", timeout_s)
        wire = [self._to_wire(request, ready) for request in requests]
        with self._serving:  # between a look at the version and the call no update may begin
            version = self._version
            if version is None or self._released:
                raise EngineNotServingError(f"{self._name}: {self._lack()}, so it serves nothing")
            if not requests:
                return []
            call_id, future = self._host.call(Generate(wire))
        try:
            answer = await self._until(
                deadline, asyncio.wrap_future(future), f"generating {len(requests)} responses", timeout_s
            )
        except (EngineDeadlineError, asyncio.CancelledError):
            self._host.forget(call_id)
            with contextlib.suppress(EngineError):  # dead: nothing is in flight any more
                self._host.call(Abort(call_id))
            raise
        return [
            _from_wire(request, generation, version)
            for request, generation in zip(requests, answer.generations, strict=True)
        ]

    async def abort_all(self) -> None:
        """See `Engine.abort_all`."""
        await self._until(
            time.monotonic() + _ABORT_WAIT_S, asyncio.wrap_future(self._host.call(Abort())[1]), "aborting requests"
        )

    async def release_memory(self) -> None:
        """See `Engine.release_memory`. Waits for the requests in flight.

        Raises:
            EngineError: on a GPU without the server argument `enable_memory_saver`.
        """
        ready = await asyncio.to_thread(self._ready)
        if not (self._saves_memory or ready.is_cpu):
            raise EngineError(f"{self._name}: it was started without enable_memory_saver, so its memory stays")
        tags = [tag for part, tags in _TAGS.items() if part not in self._released for tag in tags]
        if not tags:
            return
        with self._serving:
            self._version, self._incoming, self._released = None, None, set(EnginePart)
            self._held_copy = None
        await asyncio.to_thread(self._call, Release(tags), self._config.engine_update_timeout_s, "releasing memory")

    async def resume_memory(self, part: EnginePart) -> None:
        """See `Engine.resume_memory`."""
        if part not in self._released:
            return
        doing = f"taking the memory of its {part} back"
        await asyncio.to_thread(self._call, Resume(_TAGS[part]), self._config.engine_update_timeout_s, doing)
        self._released.discard(part)

    def begin_update(self, version: int) -> None:
        """Refuses new requests and waits for those in flight.

        Raises:
            EngineError: if the memory of the weights was given up.
        """
        self._ready()
        if EnginePart.WEIGHTS in self._released:
            raise EngineError(f"{self._name}: version {version} came before the memory of its weights was back")
        with self._serving:
            self._version = None
        if self._shapes is None:
            self._shapes = checkpoint_shapes(self._model_path)
        self._incoming = IncomingWeights(self._name, version, self._shapes)
        self._earlier_copy, self._held_copy, self._incoming_copy = self._held_copy, None, None
        self._update_seconds = {}
        self._call(Drain(), self._config.engine_update_timeout_s, f"finishing requests before version {version}")

    def load_bucket(
        self, specs: Sequence[TensorSpec], buffer: "torch.Tensor | NDArray[np.uint8] | DeviceBuffer", checksum: str
    ) -> None:
        """Loads tensors that lie end to end in the flat uint8 buffer.

        Args:
            specs: name, dtype and shape of each.
            buffer: in host memory, or in that of a GPU which SGLang's processes read themselves (see `check_buffer`).
            checksum: see `rl_rollout.weights.checksum`.

        Raises:
            EngineError: naming the bucket, if it is damaged or does not belong to the model.
        """
        if is_on_gpu(buffer):
            buffer = self._sharer.record(buffer)
        if isinstance(buffer, DeviceBuffer):
            self._load(specs, buffer, checksum)
            return
        content = flat_bytes(buffer)
        descriptor = memory_file(memoryview(content))
        try:
            self._load(specs, content.size, checksum, descriptor)
        finally:
            os.close(descriptor)

    def num_ranks(self) -> int:
        """How many processes hold a part of the model. Time that the engine still needs to start counts."""
        return self._ready().num_ranks

    def join_group(self, address: str, backend: str, timeout_s: float) -> None:
        """Joins a group whose rank 0 broadcasts weights, and leaves the one before; returns when all are in it.

        Args:
            address: "file:///PATH" or "tcp://HOST:PORT" of the store where the ranks meet.
            backend: "gloo" or "nccl".
            timeout_s: what each operation of the group may take.
        """
        task = JoinGroup(address, backend, 1 + self.num_ranks(), timeout_s)
        answer = self._call(task, timeout_s, f"joining a group over {backend}")
        if answer.refusal is not None:
            raise EngineError(f"{self._name}: could not join a group over {backend}: {answer.refusal}")

    def receive_bucket(self, specs: Sequence[TensorSpec], num_bytes: int, checksum: str) -> None:
        """`load_bucket` of the bytes that rank 0 of the joined group broadcasts meanwhile."""
        self._load(specs, GroupBuffer(num_bytes), checksum)

    def load_version(self, folder: str) -> None:
        """Between `begin_update` and `commit_update`: loads a version from a folder that `rl_weights` wrote.

        Of a delta on the version that is held only the buckets that changed are loaded. What this engine missed is
        read from the folders beside; a copy of the weights is kept with the engine's own files for that.

        Raises:
            EngineError: naming what is missing or damaged.
        """
        if self._incoming is None:
            raise EngineError(f"{self._name}: load_version came before begin_update")
        if self._copy is None:
            self._copy = WeightCopy(self._name, self._host.folder / "weights")
        for bucket in self._copy.bring_to(Path(folder), held=self._earlier_copy):
            if bucket.is_held:
                self._incoming.check(bucket.specs, bucket.num_bytes)
                self._incoming.add(bucket.specs)
                continue
            descriptor = os.open(bucket.path, os.O_RDONLY)
            try:
                self._load(bucket.specs, bucket.num_bytes, bucket.checksum, descriptor)
            finally:
                os.close(descriptor)
        self._incoming_copy = self._copy.version

    def tensor_checksums(self, specs: Sequence[TensorSpec]) -> list[str]:
        """`rl_rollout.weights.checksum` of each tensor as the model holds it now.

        Raises:
            EngineError: naming a tensor that cannot be read back from SGLang's model.
        """
        places = aligned_places(specs)
        num_bytes = places[-1][1] if places else 0
        descriptor = os.memfd_create("rl-held")
        try:
            os.truncate(descriptor, num_bytes)
            task = ReadBack(_wire(specs), num_bytes)
            answer = self._call(task, self._config.engine_update_timeout_s, "reading weights back", descriptor)
            if answer.refusal is not None:
                raise EngineError(f"{self._name}: {answer.refusal}")
            held = np.frombuffer(mmap.mmap(descriptor, num_bytes, prot=mmap.PROT_READ), np.uint8) if num_bytes else ()
            return [checksum_of(np.asarray(held[start:stop], np.uint8)) for start, stop in places]
        finally:
            os.close(descriptor)

    def check_buffer(self, buffer: "torch.Tensor | DeviceBuffer", checksum: str) -> str | None:
        """Why SGLang's processes cannot read a buffer in the memory of a GPU; None if all of them can.

        They read that of their own GPUs, and of others of the same machine to which CUDA gives them access. Time that
        the engine still needs to start counts.

        Args:
            buffer: [bytes] uint8.
            checksum: see `rl_rollout.weights.checksum`.
        """
        record = buffer if isinstance(buffer, DeviceBuffer) else self._sharer.record(buffer)
        self._ready()
        task = CheckBuffer(record, checksum)
        return self._call(task, self._config.engine_update_timeout_s, "reading a buffer on a GPU").refusal

    def let_go(self) -> None:
        """Ends all mappings of GPU memory that buckets came in, so that their owner can free it."""
        self._sharer.forget()
        self._call(LetGo(), self._config.engine_update_timeout_s, "letting go of buckets")

    def update_seconds(self) -> Mapping[str, float]:
        """Time by phase that SGLang's process spent on the buckets of the latest update: open, checksum, load."""
        return dict(self._update_seconds)

    def commit_update(self, version: int, num_tensors: int) -> None:
        """Forgets the KV cache and serves as `version`.

        Raises:
            EngineError: if anything is missing; the engine then refuses to serve until a whole update has come.
        """
        if self._incoming is None:
            raise EngineError(f"{self._name}: commit_update of version {version} came before begin_update")
        self._incoming.finish(version, num_tensors)
        self._call(Flush(), self._config.engine_update_timeout_s, f"flushing its cache for version {version}")
        self._incoming = None
        self._held_copy = self._incoming_copy
        self._version = version

    def weight_version(self) -> PolicyVersion | None:
        """The version served now; None while no whole version is held or the engine has not started.

        Raises:
            EngineError: if the engine is dead.
        """
        self._host.require_life()
        return self._version if self._host.ready.done() else None

    def close(self) -> None:
        """Ends the engine and every process it started, also after a crash; may be called twice."""
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ready(self, timeout_s: float | None = None) -> Ready:
        if timeout_s is None:
            timeout_s = max(0.0, self._started + self._config.engine_start_timeout_s - time.monotonic())
        try:
            return self._host.ready.result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise EngineDeadlineError(f"{self._name}: not ready within {timeout_s:g} s") from None

    def _call(self, task: Task, timeout_s: float, doing: str, descriptor: int | None = None) -> Answer:
        call_id, future = self._host.call(task, descriptor)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            self._host.forget(call_id)
            raise EngineDeadlineError(f"{self._name}: no answer within {timeout_s:g} s while {doing}") from None

    def _load(
        self,
        specs: Sequence[TensorSpec],
        given: DeviceBuffer | GroupBuffer | int,
        checksum: str,
        descriptor: int | None = None,
    ) -> None:
        """Loads a bucket that is in a buffer, or a number of bytes in the file of the descriptor."""
        if self._incoming is None:
            raise EngineError(f"{self._name}: a weight bucket came before begin_update")
        buffer, num_bytes = (None, given) if isinstance(given, int) else (given, given.num_bytes)
        where = self._incoming.check(specs, num_bytes)
        task = Load(_wire(specs), checksum, num_bytes, buffer)
        answer = self._call(task, self._config.engine_update_timeout_s, f"reading {where}", descriptor)
        if answer.refusal is not None:
            raise EngineError(f"{where}: {answer.refusal}")
        for phase, seconds in answer.seconds.items():
            self._update_seconds[phase] = self._update_seconds.get(phase, 0.0) + seconds
        self._incoming.add(specs)

    async def _until[T](self, deadline: float, future: "asyncio.Future[T]", doing: str, timeout_s: float = 0.0) -> T:
        try:
            # The shield keeps a cancelled waiter from cancelling the future that others may wait for.
            return await asyncio.wait_for(asyncio.shield(future), max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            if isinstance(error, EngineError):
                raise
            limit = f" within {timeout_s:g} s" if timeout_s else ""
            raise EngineDeadlineError(f"{self._name}: no answer{limit} while {doing}") from None

    def _lack(self) -> str:
        if self._released:
            return f"its memory is given up ({', '.join(sorted(self._released))})"
        return "holds no whole set of weights"

    def _to_wire(self, request: GenerateRequest, ready: Ready) -> WireRequest:
        sampling = request.sampling
        if (sampling.stop or sampling.min_new_tokens) and not self._needs_tokenizer:
            raise RequestError(
                f"{self._name}: request {request.request_id} has stop strings or min_new_tokens, "
                "which an engine started with needs_tokenizer=True can serve"
            )
        num_tokens = request.tokens.size + sampling.max_new_tokens
        if request.tokens.size == 0 or num_tokens > ready.max_request_tokens:
            raise RequestError(
                f"{self._name}: request {request.request_id} has {request.tokens.size} prompt tokens and asks for "
                f"{sampling.max_new_tokens} more; expected 1 to {ready.max_request_tokens} in all"
            )
        return WireRequest(
            tokens=np.ascontiguousarray(request.tokens, np.int32).tobytes(),
            sampling=WireSampling.of(sampling, request.seed),
            skip_special_tokens=sampling.skip_special_tokens,
            response_start=request.tokens.size if request.response_start is None else request.response_start,
        )


def _wire(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [(name, dtype, tuple(shape)) for name, dtype, shape in specs]


def _from_wire(request: GenerateRequest, generation: WireGeneration, version: PolicyVersion) -> Generation:
    return Generation(
        request_id=request.request_id,
        tokens=np.frombuffer(generation.tokens, np.int32),
        logprobs=np.frombuffer(generation.logprobs, np.float32),
        text=generation.text,
        finish_reason=FinishReason(generation.finish_reason),
        policy_version=version,
    )
