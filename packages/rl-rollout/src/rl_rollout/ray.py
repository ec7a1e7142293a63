"""SGLang engines as Ray actors. The only module of rl-rollout that imports Ray.

Needs `pip install rl-rollout[ray,sglang]`.
"""

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_data import PolicyVersion
from rl_data.json import JsonValue
from rl_rollout.engine import EnginePart, GenerateRequest, Generation
from rl_rollout.errors import EngineDeadlineError, EngineError, RLRolloutError
from rl_rollout.sglang.config import EngineConfig, ServerArguments, chosen_arguments, require_model
from rl_rollout.sglang.engine import SGLangEngine
from rl_rollout.sglang.messages import DeviceBuffer
from rl_rollout.sglang.sharing import BufferSharer, is_on_gpu
from rl_rollout.weights import TensorSpec, flat_bytes

if TYPE_CHECKING:
    import torch
    from ray.actor import ActorHandle

logger = logging.getLogger(__name__)

# What a call may take beyond the engine's own deadline, which normally passes first and says more.
_TRANSPORT_S = 20.0
_CLOSE_S = 5.0
# Ray's default, 1000, bounds the calls that an actor begins: later ones, such as abort_all, would wait for responses.
MAX_CALLS = 1_000_000
_COLOURS = re.compile(r"\x1b\[\d*m")
"""Ray's, in tracebacks of actors, whoever reads them."""


class _EngineActor:
    """Owns one SGLangEngine. Blocking work goes to threads, so that the actor answers while weights load."""

    def __init__(
        self,
        model_path: str,
        name: str,
        server_args: Mapping[str, JsonValue],
        config: EngineConfig,
        needs_tokenizer: bool,
        has_remote_writer: bool,
        gpu_ids: Sequence[str],
    ) -> None:
        if gpu_ids:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
        self._engine = SGLangEngine(
            model_path,
            name=name,
            server_args=server_args,
            config=config,
            needs_tokenizer=needs_tokenizer,
            has_remote_writer=has_remote_writer,
        )

    async def wait_ready(self, timeout_s: float | None) -> Mapping[str, float]:
        return await asyncio.to_thread(self._engine.wait_ready, timeout_s)

    async def process_ids(self) -> list[int]:
        return await asyncio.to_thread(self._engine.process_ids)

    async def generate(self, requests: Sequence[GenerateRequest], timeout_s: float) -> list[Generation]:
        return await self._engine.generate(requests, timeout_s=timeout_s)

    async def abort_all(self) -> None:
        await self._engine.abort_all()

    async def release_memory(self) -> None:
        await self._engine.release_memory()

    async def resume_memory(self, part: EnginePart) -> None:
        await self._engine.resume_memory(part)

    async def begin_update(self, version: int) -> None:
        await asyncio.to_thread(self._engine.begin_update, version)

    async def load_bucket(
        self, specs: Sequence[TensorSpec], buffer: NDArray[np.uint8] | DeviceBuffer, checksum: str
    ) -> None:
        await asyncio.to_thread(self._engine.load_bucket, specs, buffer, checksum)

    async def num_ranks(self) -> int:
        return await asyncio.to_thread(self._engine.num_ranks)

    async def join_group(self, address: str, backend: str, timeout_s: float) -> None:
        await asyncio.to_thread(self._engine.join_group, address, backend, timeout_s)

    async def receive_bucket(self, specs: Sequence[TensorSpec], num_bytes: int, checksum: str) -> None:
        await asyncio.to_thread(self._engine.receive_bucket, specs, num_bytes, checksum)

    async def load_version(self, folder: str) -> None:
        await asyncio.to_thread(self._engine.load_version, folder)

    async def tensor_checksums(self, specs: Sequence[TensorSpec]) -> list[str]:
        return await asyncio.to_thread(self._engine.tensor_checksums, specs)

    async def commit_update(self, version: int, num_tensors: int) -> None:
        await asyncio.to_thread(self._engine.commit_update, version, num_tensors)

    async def weight_version(self) -> PolicyVersion | None:
        return self._engine.weight_version()

    async def check_buffer(self, buffer: DeviceBuffer, checksum: str) -> str | None:
        return await asyncio.to_thread(self._engine.check_buffer, buffer, checksum)

    async def let_go(self) -> None:
        await asyncio.to_thread(self._engine.let_go)

    async def update_seconds(self) -> Mapping[str, float]:
        return self._engine.update_seconds()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)


class RayEngine:
    """Handle of an engine in a Ray actor: an `Engine` and a weight sink. It can be passed to other actors.

    The actor lives as long as a handle does. Every call has a deadline; an engine or actor that died makes it raise
    EngineError with the engine's name and the actor's own traceback.
    """

    def __init__(self, actor: "ActorHandle[Any]", name: str, config: EngineConfig) -> None:
        self._actor = actor
        self._name = name
        self._config = config
        self._sharer = BufferSharer()

    @property
    def name(self) -> str:
        """How messages call this engine."""
        return self._name

    def wait_ready(self, timeout_s: float | None = None) -> Mapping[str, float]:
        """See `SGLangEngine.wait_ready`. The time until Ray places the actor counts."""
        limit_s = self._config.engine_start_timeout_s if timeout_s is None else timeout_s
        return self._get(self._actor.wait_ready.remote(timeout_s), limit_s, "starting")

    def process_ids(self) -> list[int]:
        """See `SGLangEngine.process_ids`."""
        return self._get(self._actor.process_ids.remote(), _TRANSPORT_S, "listing its processes")

    async def generate(self, requests: Sequence[GenerateRequest], *, timeout_s: float) -> list[Generation]:
        """See `Engine.generate`; one Ray call carries all requests."""
        reference = self._actor.generate.remote(list(requests), timeout_s)
        return await self._wait(reference, timeout_s, f"generating {len(requests)} responses")

    async def abort_all(self) -> None:
        """See `Engine.abort_all`."""
        await self._wait(self._actor.abort_all.remote(), _TRANSPORT_S, "aborting requests")

    async def release_memory(self) -> None:
        """See `Engine.release_memory`."""
        await self._wait(self._actor.release_memory.remote(), self._config.engine_update_timeout_s, "releasing memory")

    async def resume_memory(self, part: EnginePart) -> None:
        """See `Engine.resume_memory`."""
        reference = self._actor.resume_memory.remote(part)
        await self._wait(reference, self._config.engine_update_timeout_s, f"taking the memory of its {part} back")

    def begin_update(self, version: int) -> None:
        """See `SGLangEngine.begin_update`."""
        limit_s = self._config.engine_start_timeout_s + self._config.engine_update_timeout_s
        self._get(self._actor.begin_update.remote(version), limit_s, f"preparing for version {version}")

    def load_bucket(
        self, specs: Sequence[TensorSpec], buffer: "torch.Tensor | NDArray[np.uint8]", checksum: str
    ) -> None:
        """See `SGLangEngine.load_bucket`.

        Of a buffer on a GPU only a record travels; the bytes of others go through Ray's object store.
        """
        reference = self._actor.load_bucket.remote(list(specs), self._readable(buffer), checksum)
        self._get(reference, self._config.engine_update_timeout_s, "loading weights")

    def num_ranks(self) -> int:
        """See `SGLangEngine.num_ranks`."""
        limit_s = self._config.engine_start_timeout_s + self._config.engine_update_timeout_s
        return self._get(self._actor.num_ranks.remote(), limit_s, "telling its number of ranks")

    def join_group(self, address: str, backend: str, timeout_s: float) -> None:
        """See `SGLangEngine.join_group`."""
        self._get(self._actor.join_group.remote(address, backend, timeout_s), timeout_s, f"joining over {backend}")

    def receive_bucket(self, specs: Sequence[TensorSpec], num_bytes: int, checksum: str) -> None:
        """See `SGLangEngine.receive_bucket`; the bytes come to SGLang's own processes."""
        reference = self._actor.receive_bucket.remote(list(specs), num_bytes, checksum)
        self._get(reference, self._config.engine_update_timeout_s, "receiving weights")

    def load_version(self, folder: str) -> None:
        """See `SGLangEngine.load_version`; the engine's machine has to have the folder."""
        self._get(self._actor.load_version.remote(folder), self._config.engine_update_timeout_s, f"loading {folder}")

    def tensor_checksums(self, specs: Sequence[TensorSpec]) -> list[str]:
        """See `SGLangEngine.tensor_checksums`."""
        reference = self._actor.tensor_checksums.remote(list(specs))
        return self._get(reference, self._config.engine_update_timeout_s, "reading weights back")

    def commit_update(self, version: int, num_tensors: int) -> None:
        """See `SGLangEngine.commit_update`."""
        reference = self._actor.commit_update.remote(version, num_tensors)
        self._get(reference, self._config.engine_update_timeout_s, f"committing version {version}")

    def weight_version(self) -> PolicyVersion | None:
        """See `SGLangEngine.weight_version`."""
        return self._get(self._actor.weight_version.remote(), _TRANSPORT_S, "telling its weight version")

    def check_buffer(self, buffer: "torch.Tensor", checksum: str) -> str | None:
        """See `SGLangEngine.check_buffer`."""
        limit_s = self._config.engine_start_timeout_s + self._config.engine_update_timeout_s
        reference = self._actor.check_buffer.remote(self._sharer.record(buffer), checksum)
        return self._get(reference, limit_s, "reading a buffer on a GPU")

    def let_go(self) -> None:
        """See `SGLangEngine.let_go`."""
        self._sharer.forget()
        self._get(self._actor.let_go.remote(), self._config.engine_update_timeout_s, "letting go of buckets")

    def update_seconds(self) -> Mapping[str, float]:
        """See `SGLangEngine.update_seconds`."""
        return self._get(self._actor.update_seconds.remote(), _TRANSPORT_S, "telling the times of its update")

    def close(self) -> None:
        """Ends the engine's processes and the actor, within seconds; may be called twice."""
        try:
            ray.get(self._actor.close.remote(), timeout=_CLOSE_S)
        except RayError as error:
            # The engine's processes end with the actor; they are only not waited for.
            logger.debug("%s was closed the hard way: %s", self._name, error)
        ray.kill(self._actor)  # pyright: ignore[reportUnknownMemberType]

    def _readable(self, buffer: "torch.Tensor | NDArray[np.uint8]") -> NDArray[np.uint8] | DeviceBuffer:
        return self._sharer.record(buffer) if is_on_gpu(buffer) else flat_bytes(buffer)

    def _get(self, reference: "ray.ObjectRef[Any]", timeout_s: float, doing: str) -> Any:
        try:
            return ray.get(reference, timeout=timeout_s + _TRANSPORT_S)
        except (RayTaskError, RayActorError, GetTimeoutError) as error:
            raise self._translate(error, timeout_s, doing) from _unless_told(error)

    async def _wait(self, reference: "ray.ObjectRef[Any]", timeout_s: float, doing: str) -> Any:
        try:
            return await asyncio.wait_for(_value(reference), timeout_s + _TRANSPORT_S)
        except asyncio.CancelledError:
            ray.cancel(reference)  # pyright: ignore[reportUnknownMemberType]
            raise
        except (RayTaskError, RayActorError, TimeoutError) as error:
            raise self._translate(error, timeout_s, doing) from _unless_told(error)

    def _translate(self, error: Exception, timeout_s: float, doing: str) -> RLRolloutError:
        """Our own error for Ray's. If it is not the actor's own, it holds the actor's traceback."""
        if isinstance(error, RayTaskError):
            if isinstance(error.cause, RLRolloutError):  # pyright: ignore[reportUnknownMemberType]
                return error.cause
            traceback = _COLOURS.sub("", str(error))
            return EngineError(f"{self._name}: failed while {doing}:\n{traceback}")
        if isinstance(error, RayActorError):
            return EngineError(f"{self._name}: its actor died while {doing}: {error}")
        return EngineDeadlineError(f"{self._name}: no answer within {timeout_s:g} s while {doing}")


def _unless_told(error: Exception) -> Exception | None:
    """What shows the actor's traceback, where the error that we raise does not hold it."""
    is_own = isinstance(error, RayTaskError) and isinstance(error.cause, RLRolloutError)  # pyright: ignore[reportUnknownMemberType]
    return error if is_own else None


async def _value(reference: "ray.ObjectRef[Any]") -> Any:
    return await reference


def start_engine(
    model_path: str | Path,
    *,
    name: str,
    server_args: Mapping[str, JsonValue] | ServerArguments | None = None,
    config: EngineConfig | None = None,
    needs_tokenizer: bool = False,
    has_remote_writer: bool = False,
    num_cpus: float = 1,
    num_gpus: float = 0,
    placement_group: PlacementGroup | None = None,
    bundle_index: int = -1,
    gpu_ids: Sequence[str] = (),
) -> RayEngine:
    """A handle at once; the engine starts meanwhile, and calls wait for it. `wait_ready` says when it serves.

    Args:
        model_path: a Hugging Face model folder that the actor's machine can read.
        name: how messages call the engine.
        server_args: see `SGLangEngine`.
        config: deadlines and threads.
        needs_tokenizer: see `SGLangEngine`.
        has_remote_writer: see `SGLangEngine`.
        num_cpus: CPUs that Ray sets apart for the actor.
        num_gpus: GPUs that Ray sets apart and shows to the actor.
        placement_group: where Ray places the actor; anywhere if None.
        bundle_index: which bundle of the placement group.
        gpu_ids: the GPUs that the engine sees, in CUDA's names; by default those that Ray sets apart. For an engine
            over GPUs of several bundles, of each of which a part is set apart for others.

    Raises:
        RolloutConfigError: if the folder holds no model or a server argument is not the caller's to set.
    """
    require_model(Path(model_path), name)
    given = chosen_arguments(server_args)
    chosen = config or EngineConfig()
    strategy = None
    if placement_group is not None:
        strategy = PlacementGroupSchedulingStrategy(placement_group, placement_group_bundle_index=bundle_index)
    actor = (
        ray.remote(_EngineActor)
        .options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            scheduling_strategy=strategy,
            max_restarts=0,
            max_concurrency=MAX_CALLS,
        )
        .remote(str(model_path), name, given, chosen, needs_tokenizer, has_remote_writer, tuple(gpu_ids))
    )
    return RayEngine(cast("ActorHandle[Any]", actor), name, chosen)
