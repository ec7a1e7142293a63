"""A Megatron trainer whose ranks are Ray actors. The only module of rl-train that imports Ray.

Needs `pip install rl-train[megatron,ray]`.
"""

# pyright: standard
# Ray's functions are typed in part only.

import re
import time
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_data import TrainBatch
from rl_data.json import JsonValue
from rl_train.errors import RLTrainError, TrainConfigError, TrainerDeadlineError, TrainerError
from rl_train.megatron.batch_check import check_batch
from rl_train.megatron.config import TrainerGroupConfig
from rl_train.megatron.rank import LOOPBACK, MeetingPlace, TrainerRank, TrainerSpec
from rl_train.trainer import MemoryUse, StepResult, TrainerPart

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from rl_weights import PublishReport, RLWeightsError, SyncConfig, WeightSink

# After one rank fails, the others fail too, because it left them alone: this long we wait to see who was first.
_GRACE_S = 1.0
_STATUS_S = 3.0
_CLOSE_S = 10.0
_BUCKET_BYTES = 2**30
_COLOURS = re.compile(r"\x1b\[\d*m")
"""Ray's, in tracebacks of actors, whoever reads them."""


class _Failure(NamedTuple):
    rank: int
    error: Exception


class _RankActor(TrainerRank):
    """A TrainerRank that says what it is doing while it works."""

    @ray.method(concurrency_group="status")
    def status(self) -> str:
        return self.doing()

    @ray.method(concurrency_group="status")
    def leave(self) -> None:
        self.close_meeting()


class TrainerGroup:
    """All ranks of a Megatron trainer, as one object of this process. Satisfies `rl_train.Trainer`.

    Every call has a deadline. When a rank fails, the call and every later one raises TrainerError with that rank's
    number and its own traceback; the other ranks, which wait for it, end with `close`. Errors in what was asked for
    (TrainConfigError) and engines that do not take their weights (SyncError) leave the trainer whole.

    Example:
        >>> trainer = TrainerGroup.start(spec, world_size=2)
        >>> trainer.wait_ready()
        >>> trainer.train_step(batch).loss
    """

    def __init__(self, actors: "Sequence[ActorHandle[Any]]", spec: TrainerSpec, config: TrainerGroupConfig) -> None:
        self._actors = tuple(actors)
        self._config = config
        self._failure: RLTrainError | None = None
        self._sinks: tuple[tuple[WeightSink, ...], int, float, SyncConfig] | None = None
        self._is_ready = False
        values = spec.arguments.values
        tensor, pipeline = values["tensor_model_parallel_size"], values["pipeline_model_parallel_size"]
        assert isinstance(tensor, int)
        assert isinstance(pipeline, int)
        self._pad_to_multiple = tensor if values["sequence_parallel"] else 1
        self._num_data_parallel_ranks = len(self._actors) // (tensor * pipeline)
        vocab_size = values["vocab_size"]
        assert isinstance(vocab_size, int)
        self._vocab_size = vocab_size
        place: ray.ObjectRef[MeetingPlace] = self._actors[0].listen.remote()
        self._starting = [actor.start.remote(place, spec) for actor in self._actors]

    @classmethod
    def start(
        cls,
        spec: TrainerSpec,
        *,
        world_size: int,
        config: TrainerGroupConfig | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        placement_group: PlacementGroup | None = None,
        bundle_indices: Sequence[int] | None = None,
        host: str = LOOPBACK,
    ) -> Self:
        """A handle at once; the ranks start meanwhile, and calls wait for them. `wait_ready` says when they are there.

        Args:
            spec: what the trainer is made from.
            world_size: number of ranks, as the arguments were parsed for.
            config: deadlines and threads.
            num_cpus: CPUs that Ray sets apart for a rank.
            num_gpus: GPUs that Ray sets apart for a rank and shows to it.
            placement_group: where Ray places the ranks; anywhere if None.
            bundle_indices: [world_size] bundle of each rank in the placement group.
            host: address of rank 0's machine, for ranks on several machines.

        Raises:
            TrainConfigError: if the sizes do not fit each other.
        """
        chosen = config or TrainerGroupConfig()
        if spec.arguments.values["world_size"] != world_size:
            raise TrainConfigError(
                f"trainer: arguments were parsed for {spec.arguments.values['world_size']} ranks, got {world_size}"
            )
        if bundle_indices is not None and len(bundle_indices) != world_size:
            raise TrainConfigError(f"trainer: expected {world_size} bundle indices, got {len(bundle_indices)}")
        make: Any = ray.remote(concurrency_groups={"status": 1})  # pyright: ignore[reportCallIssue]
        actor_class = make(_RankActor)
        actors = [
            actor_class.options(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                max_restarts=0,
                scheduling_strategy=None
                if placement_group is None
                else PlacementGroupSchedulingStrategy(
                    placement_group, placement_group_bundle_index=-1 if bundle_indices is None else bundle_indices[rank]
                ),
            ).remote(rank, world_size, num_threads=chosen.trainer_threads, host=host)
            for rank in range(world_size)
        ]
        return cls(actors, replace(spec, collective_timeout_s=_longest(chosen)), chosen)

    @property
    def num_data_parallel_ranks(self) -> int:
        """How many ways `TrainBatch.microbatches` must be split."""
        return self._num_data_parallel_ranks

    @property
    def pad_to_multiple(self) -> int:
        """What the tokens of every micro-batch must be a multiple of."""
        return self._pad_to_multiple

    def wait_ready(self, timeout_s: float | None = None) -> float:
        """Waits until every rank has its weights; returns the seconds that the slowest took.

        Raises:
            TrainerDeadlineError: if that takes longer than `timeout_s`, by default trainer_start_timeout_s.
        """
        limit_s = self._config.trainer_start_timeout_s if timeout_s is None else timeout_s
        seconds: list[float] = self._gather(self._starting, limit_s, "starting")
        self._is_ready = True
        return max(seconds)

    def train_step(self, batch: TrainBatch) -> StepResult:
        """See `Trainer.train_step`."""
        reference = self._put(batch, is_trained=True)
        return self._call("train_step", (reference,), self._config.trainer_step_timeout_s, "training")[0]

    def compute_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """See `Trainer.compute_logprobs`."""
        return self._logprobs(batch, is_reference=False)

    def compute_reference_logprobs(self, batch: TrainBatch) -> list[list[NDArray[np.float32]]]:
        """See `MegatronTrainer.compute_reference_logprobs`; needs `TrainerSpec.reference`."""
        return self._logprobs(batch, is_reference=True)

    def publish(
        self,
        version: int,
        sinks: "Sequence[WeightSink]",
        *,
        bucket_bytes: int = _BUCKET_BYTES,
        deadline_s: float | None = None,
        sync: "SyncConfig | None" = None,
        verify: bool = False,
    ) -> "PublishReport":
        """Hands the present weights to every sink as `version`.

        Args:
            version: that the sinks serve them as.
            sinks: handles that can be pickled, such as `rl_rollout.ray.RayEngine`; rank 0 calls them. Plans and buffers
                are kept as long as the sinks are the same objects.
            bucket_bytes: size of the pieces in which weights travel.
            deadline_s: what each call of a sink may take; by default trainer_step_timeout_s, so that a shorter deadline
                of the sink's own rules. A late sink adds it to what the publication may take.
            sync: the way that weights go, and whether buffers stay; by default they go as bytes, or through the memory
                of a GPU that all share, and buffers on a GPU do not stay.
            verify: whether the checksum of every tensor that a sink then holds is compared with the trainer's.

        Raises:
            SyncError: naming the sinks that failed. The trainer goes on.
        """
        limit_s = self._config.trainer_step_timeout_s
        from rl_weights import SyncConfig

        deadline_s = limit_s if deadline_s is None else deadline_s
        chosen = (tuple(sinks), bucket_bytes, deadline_s, sync or SyncConfig())
        if chosen != self._sinks:
            self._sinks = None  # where planning fails, the ranks have no plan at all
            self._call("set_sinks", chosen, limit_s, "planning weight sync")
            self._sinks = chosen
        doing = f"publishing version {version}"
        return self._call("publish", (version,), limit_s + 2 * deadline_s, doing, verify=verify)[0]

    def save_checkpoint(self, folder: Path, state: Mapping[str, JsonValue]) -> Path:
        """See `Trainer.save_checkpoint`."""
        arguments = (folder.absolute(), state)
        return self._call("save_checkpoint", arguments, self._config.trainer_checkpoint_timeout_s, "saving")[0]

    def load_checkpoint(self, folder: Path) -> Mapping[str, JsonValue]:
        """See `Trainer.load_checkpoint`."""
        arguments = (folder.absolute(),)
        return self._call("load_checkpoint", arguments, self._config.trainer_checkpoint_timeout_s, "loading")[0]

    def export_hf(self, folder: Path, template: Path) -> Path:
        """Writes the present weights as a Hugging Face model, with config and tokenizer of `template`."""
        arguments = (folder.absolute(), template.absolute())
        return self._call("export_hf", arguments, self._config.trainer_checkpoint_timeout_s, "exporting")[0]

    def release_memory(self, *parts: TrainerPart) -> None:
        """See `Trainer.release_memory`."""
        self._call("release_memory", parts, self._config.trainer_step_timeout_s, "releasing memory")

    def resume_memory(self) -> None:
        """See `Trainer.resume_memory`."""
        self._call("resume_memory", (), self._config.trainer_step_timeout_s, "taking memory back")

    def memory_use(self) -> list[MemoryUse]:
        """[world_size] see `MegatronTrainer.memory_use`."""
        return self._call("memory_use", (), self._config.trainer_step_timeout_s, "measuring memory")

    def close(self) -> None:
        """Ends every rank's process and waits until Ray has seen it end; may be called twice."""
        ray.wait([self._actors[0].leave.remote()], timeout=_STATUS_S)
        for actor in self._actors:
            ray.kill(actor)
        deadline = time.monotonic() + _CLOSE_S
        for actor in self._actors:
            try:
                ray.get(actor.status.remote(), timeout=max(0.0, deadline - time.monotonic()))
            except RayError:
                continue
        self._failure = self._failure or TrainerError("the trainer was closed")

    def _put(self, batch: TrainBatch, *, is_trained: bool) -> "ray.ObjectRef[TrainBatch]":
        """The batch in the object store, once for all ranks of a machine, if it fits them."""
        check_batch(
            batch,
            num_ranks=self._num_data_parallel_ranks,
            pad_to_multiple=self._pad_to_multiple,
            vocab_size=self._vocab_size,
            is_trained=is_trained,
        )
        return ray.put(batch)

    def _logprobs(self, batch: TrainBatch, *, is_reference: bool) -> list[list[NDArray[np.float32]]]:
        reference = self._put(batch, is_trained=False)
        doing = "computing log-probabilities"
        limit_s = self._config.trainer_step_timeout_s
        return self._call("compute_logprobs", (reference,), limit_s, doing, is_reference=is_reference)[0]

    def _call(
        self, method: str, arguments: tuple[Any, ...], timeout_s: float, doing: str, **options: bool
    ) -> list[Any]:
        """[world_size] what `method` returns on each rank."""
        if not self._is_ready:
            self.wait_ready()
        self._require_whole()
        references = [getattr(actor, method).remote(*arguments, **options) for actor in self._actors]
        return self._gather(references, timeout_s, doing)

    def _require_whole(self) -> None:
        if self._failure is not None:
            raise copy(self._failure)  # an error raised twice shows where it was raised first, too

    def _gather(self, references: "Sequence[ray.ObjectRef[Any]]", timeout_s: float, doing: str) -> list[Any]:
        self._require_whole()
        rank_of = {reference: rank for rank, reference in enumerate(references)}
        values: dict[int, Any] = {}
        failures: list[_Failure] = []
        waiting = list(references)
        deadline = time.monotonic() + timeout_s
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                break
            try:
                values[rank_of[done[0]]] = ray.get(done[0])
            except RayError as error:
                failures.append(_Failure(rank_of[done[0]], error))
                deadline = min(deadline, time.monotonic() + _GRACE_S)
        if failures:
            cause, shown_before = _first_cause(failures, doing)
            if isinstance(cause, TrainerError):
                self._failure = cause
            raise cause from shown_before
        if waiting:
            self._failure = self._deadline_error([rank_of[one] for one in waiting], timeout_s, doing)
            raise self._failure
        return [values[rank] for rank in range(len(references))]

    def _deadline_error(self, ranks: Sequence[int], timeout_s: float, doing: str) -> TrainerDeadlineError:
        asked = {rank: self._actors[rank].status.remote() for rank in ranks}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_STATUS_S)
        lines: list[str] = []
        for rank, reference in asked.items():
            try:
                lines.append(f"rank {rank}: {ray.get(reference, timeout=0)}")
            except RayError:
                lines.append(f"rank {rank}: does not say what it is doing")
        return TrainerDeadlineError(
            f"trainer: no answer within {timeout_s:g} s while {doing} from\n  " + "\n  ".join(lines)
        )


def _longest(config: TrainerGroupConfig) -> float:
    return max(config.trainer_start_timeout_s, config.trainer_step_timeout_s, config.trainer_checkpoint_timeout_s)


def _first_cause(failures: Sequence[_Failure], doing: str) -> "tuple[RLTrainError | RLWeightsError, Exception | None]":
    """The failure that brought the others about, as our own error; and what says where it was, unless that does.

    Errors in what was asked for, and those of rl-weights, leave the trainer whole: only TrainerError does not.

    A rank that died, or failed by itself, leaves the others with a broken connection.
    """

    # Importing rl-weights loads torch, which ranks do after they have set its threads.
    from rl_weights.errors import RLWeightsError

    def suspicion(failure: _Failure) -> int:
        if isinstance(failure.error, RayActorError):
            return 0
        text = str(failure.error)
        return 2 if "Connection closed by peer" in text or "Connection reset by peer" in text else 1

    rank, error = min(failures, key=suspicion)
    others = sorted(failure.rank for failure in failures if failure.rank != rank)
    also = f"\n(then also: rank {', rank '.join(map(str, others))})" if others else ""
    if isinstance(error, RayActorError):
        return TrainerError(f"trainer rank {rank} died while {doing}: {error}{also}"), None
    if isinstance(error, RayTaskError) and isinstance(error.cause, RLTrainError | RLWeightsError):
        return error.cause, error
    traceback = _COLOURS.sub("", str(error))
    return TrainerError(f"trainer rank {rank} failed while {doing}:\n{traceback}{also}"), None
