"""The processes of a GRPO run: trainer ranks and engines, and which GPUs they sit on."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recipes.cluster import gpus_per_actor, ray_cluster
from recipes.console import StepConsole
from recipes.grpo.config import GRPOJob
from rl_rollout import EnginePool
from rl_train.algorithms import make_loss
from rl_train.megatron.rank import TrainerSpec

if TYPE_CHECKING:
    from rl_rollout.ray import RayEngine
    from rl_train.ray import TrainerGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Handles of what runs beside the driver."""

    trainer: "TrainerGroup"
    engines: "tuple[RayEngine, ...]"
    pool: EnginePool


@contextmanager
def start_processes(job: GRPOJob, console: StepConsole) -> Generator[Processes]:
    """Trainer and engines, started at the same time, ready at the start of the block and gone after it."""
    with ExitStack() as stack:
        num_actors = job.trainer_placement.world_size + job.engine_placement.num_engines
        stack.enter_context(ray_cluster(num_actors=num_actors))
        num_gpus = gpus_per_actor(num_actors=num_actors)
        trainer = _start_trainer(job, num_gpus)
        stack.callback(trainer.close)
        from rl_rollout.ray import start_engine

        engines: list[RayEngine] = []
        stack.callback(_close_all, engines)
        for index in range(job.engine_placement.num_engines):
            engine = start_engine(
                job.run.hf_checkpoint,
                name=f"engine {index}",
                server_args=job.sglang,
                config=job.engine,
                needs_tokenizer=bool(job.rollout.rollout_stop),
                num_gpus=num_gpus,
            )
            engines.append(engine)
        with console.busy("starting trainer and engines"):
            trainer.wait_ready()
            for engine in engines:
                engine.wait_ready()
        yield Processes(trainer=trainer, engines=tuple(engines), pool=EnginePool(engines))


def _close_all(engines: "Sequence[RayEngine]") -> None:
    from rl_rollout.ray import RayEngine

    with ThreadPoolExecutor(max(1, len(engines))) as threads:
        list(threads.map(RayEngine.close, engines))


def _start_trainer(job: GRPOJob, num_gpus: int) -> "TrainerGroup":
    from rl_train.ray import TrainerGroup

    weights = job.run.load or job.run.hf_checkpoint
    spec = TrainerSpec(
        arguments=job.megatron,
        model_config=job.model_config,
        weights=weights,
        loss=make_loss(job.algorithm),
        temperature=job.rollout.rollout_temperature,
        reference=(job.reference.ref_load or weights) if job.algorithm.needs_reference else None,
        config=job.megatron_trainer,
    )
    return TrainerGroup.start(spec, world_size=job.trainer_placement.world_size, config=job.trainer, num_gpus=num_gpus)
