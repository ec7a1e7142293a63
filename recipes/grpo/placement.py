"""The processes of a GRPO run: trainer ranks and engines, and which GPUs they sit on."""

import asyncio
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from recipes.cluster import ray_cluster
from recipes.console import StepConsole
from recipes.devices import check_gpus, where_they_run
from recipes.grpo.config import GRPOJob
from recipes.grpo.external import external_engines
from recipes.seats import LOOPBACK, EngineSeat, Seats, seats_of_engines, take_seats
from rl_rollout import EngineConfig, EnginePool
from rl_rollout.sglang.arguments import SGLangArguments
from rl_rollout.sglang.http_engine import HTTPEngine
from rl_train.megatron.rank import TrainerSpec

if TYPE_CHECKING:
    from rl_rollout.ray import RayEngine
    from rl_train.ray import TrainerGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Handles of what runs beside the driver."""

    trainer: "TrainerGroup"
    engines: "tuple[RayEngine | HTTPEngine, ...]"
    pool: EnginePool


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What all engines of a run have in common."""

    model: Path
    sglang: SGLangArguments
    config: EngineConfig
    needs_tokenizer: bool
    num_gpus: int
    """Of each engine; processes where there are none."""
    gives_memory_up: bool = False
    has_remote_writer: bool = False
    """Whether the trainer's first rank may be on another node."""

    def of_model(self, model: Path) -> Self:
        """The same, of another model folder."""
        return replace(self, model=model)


@contextmanager
def start_engines(spec: EngineSpec, *, num_engines: int, console: StepConsole) -> Generator[EnginePool]:
    """Engines without a trainer, ready at the start of the block and gone after it."""
    with ExitStack() as stack:
        stack.enter_context(ray_cluster(num_actors=num_engines))
        seats = seats_of_engines(num_engines, num_gpus=spec.num_gpus)
        has_gpus = any(seat.num_gpus for seat in seats)
        check_gpus(has_gpus=has_gpus)
        console.say(
            where_they_run(
                num_ranks=0, num_engines=num_engines, gpus_per_engine=spec.num_gpus, has_gpus=has_gpus, is_shared=False
            )
        )
        engines: list[RayEngine | HTTPEngine] = []
        stack.callback(_close_all, engines)
        for index, seat in enumerate(seats):
            engines.append(_start_engine(spec, seat, index))
        with console.busy("starting engines"):
            _wait_ready(engines)
        yield EnginePool(engines)


@contextmanager
def start_processes(job: GRPOJob, console: StepConsole) -> Generator[Processes]:
    """Trainer and engines, ready at the start of the block and gone after it.

    They start at the same time, but on GPUs that they share the engines start alone, because they measure how much
    memory there is, and give it up before the trainer starts, if they are to.
    """
    placement = job.engine_placement
    num_ranks = job.trainer_placement.world_size
    num_engines = placement.num_engines(num_ranks)
    with ExitStack() as stack:
        stack.enter_context(ray_cluster(num_actors=num_ranks + num_engines))
        seats = stack.enter_context(
            take_seats(
                job.trainer_placement,
                num_engines=num_engines,
                gpus_per_engine=placement.rollout_num_gpus_per_engine,
                is_shared=placement.colocate,
            )
        )
        check_gpus(has_gpus=seats.num_gpus > 0)
        console.say(
            where_they_run(
                num_ranks=num_ranks,
                num_engines=num_engines,
                gpus_per_engine=placement.rollout_num_gpus_per_engine,
                has_gpus=seats.num_gpus > 0,
                is_shared=placement.colocate,
            )
        )
        spec = EngineSpec(
            model=job.run.hf_checkpoint,
            sglang=job.sglang,
            config=job.engine,
            needs_tokenizer=bool(job.rollout.rollout_stop),
            num_gpus=placement.rollout_num_gpus_per_engine,
            gives_memory_up=placement.releases_engines,
            has_remote_writer=seats.host != LOOPBACK,
        )
        external = external_engines(job.engine_placement, job.run, job.weight_sync, job.engine)
        engines: list[RayEngine | HTTPEngine] = [*stack.enter_context(external)]
        stack.callback(_close_all, engines)
        for index, seat in enumerate(seats.engines):
            engines.append(_start_engine(spec, seat, index))
        pool = EnginePool(engines)
        if placement.colocate:
            with console.busy("starting engines"):
                _wait_ready(engines)
                if placement.releases_engines:
                    asyncio.run(pool.release_memory())
        trainer = _start_trainer(job, seats)
        stack.callback(trainer.close)
        with console.busy("starting the trainer" if placement.colocate else "starting trainer and engines"):
            trainer.wait_ready()
            _wait_ready(engines)
        yield Processes(trainer=trainer, engines=tuple(engines), pool=pool)


def _wait_ready(engines: "Sequence[RayEngine | HTTPEngine]") -> None:
    for engine in engines:
        engine.wait_ready()


def _close_all(engines: "Sequence[RayEngine | HTTPEngine]") -> None:
    def close(engine: "RayEngine | HTTPEngine") -> None:
        engine.close()

    with ThreadPoolExecutor(max(1, len(engines))) as threads:
        list(threads.map(close, engines))


def _start_engine(spec: EngineSpec, seat: EngineSeat, index: int) -> "RayEngine":
    from rl_rollout.ray import start_engine

    server_args = spec.sglang.server_kwargs()
    if spec.gives_memory_up:
        server_args["enable_memory_saver"] = True
    if spec.num_gpus > 1:
        server_args["tp_size"] = spec.num_gpus
    return start_engine(
        spec.model,
        name=f"engine {index}",
        server_args=server_args,
        config=spec.config,
        needs_tokenizer=spec.needs_tokenizer,
        has_remote_writer=spec.has_remote_writer,
        num_gpus=seat.num_gpus,
        placement_group=seat.group,
        bundle_index=seat.bundle,
        gpu_ids=seat.gpu_ids,
    )


def _start_trainer(job: GRPOJob, seats: Seats) -> "TrainerGroup":
    from rl_train.algorithms import make_loss  # loads torch, which no mistake in the flags should wait for
    from rl_train.ray import TrainerGroup

    weights = job.run.first_weights
    spec = TrainerSpec(
        arguments=job.megatron,
        model_config=job.model_config,
        weights=weights,
        loss=make_loss(job.algorithm),
        temperature=job.rollout.rollout_temperature,
        reference=(job.run.ref_load or weights) if job.algorithm.needs_reference else None,
        config=job.megatron_trainer,
    )
    world_size = job.trainer_placement.world_size
    return TrainerGroup.start(
        spec,
        world_size=world_size,
        config=job.trainer,
        num_gpus=seats.num_gpus,
        placement_group=seats.ranks,
        bundle_indices=None if seats.ranks is None else range(world_size),
        host=seats.host,
    )
