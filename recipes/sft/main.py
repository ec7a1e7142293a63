"""The SFT loop: read conversations, pack them, take a step."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recipes.bad_rows import tell_bad_rows
from recipes.check_only import tell_checked
from recipes.clock import PhaseClock
from recipes.cluster import ray_cluster
from recipes.console import StepConsole
from recipes.devices import check_gpus, where_they_run
from recipes.ending import StopAfterStep, run_to_its_end, telling_how_to_resume
from recipes.memory_use import MemoryLog, peak
from recipes.resume import resume_run, saved_state
from recipes.run_folder import RunFolder
from recipes.seats import take_seats
from recipes.sft.config import PROGRAM, SFTJob, read_job
from rl_data import pack
from rl_train.megatron.rank import TrainerSpec

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup


def main(argv: Sequence[str]) -> int:
    """Runs SFT as the command line says; returns the exit code."""
    return run_to_its_end(PROGRAM, lambda: read_job(argv), lambda job: tell_checked(job) if job.run.check else run(job))


def run(job: SFTJob) -> None:
    """One run, from the start of its processes to its final model."""
    console = StepConsole()
    console.say(job.config_text)
    for note in job.notes:
        console.say(note)
    folder = RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    tell_bad_rows(job.bad_rows, folder, console, is_resumed=job.run.resume)
    with telling_how_to_resume(PROGRAM, folder), _start_trainer(job, console) as trainer:
        done = resume_run(trainer, folder, job.source) if job.run.resume else 0
        with StopAfterStep() as stop:
            _train(job, trainer, folder, console, done, stop)
        trainer.export_hf(folder.new_model(), job.run.hf_checkpoint)
        console.say(f"model: {folder.model}")


def _train(
    job: SFTJob, trainer: "TrainerGroup", folder: RunFolder, console: StepConsole, done: int, stop: StopAfterStep
) -> None:
    memory = MemoryLog(trainer)
    for step in console.track(range(done + 1, job.num_steps + 1), what="sft", total=job.num_steps, completed=done):
        clock = PhaseClock()
        with clock.phase("data"):
            batch = pack(
                job.source.next_batch(job.batch.global_batch_size),
                num_ranks=trainer.num_data_parallel_ranks,
                max_tokens=job.batch.max_tokens_per_gpu,
                pad_to_multiple=trainer.pad_to_multiple,
                attention_length=job.batch.attention_length(job.model_config),
            )
        with clock.phase("train"):
            result = trainer.train_step(batch)
        seconds = clock.seconds()
        memory.note("train")
        memory_gib = memory.take()
        folder.log_metrics(
            {
                "phase": "sft",
                "step": step,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "learning_rate": result.learning_rate,
                "num_tokens": batch.num_tokens,
                "num_loss_tokens": batch.num_loss_tokens,
                "num_dropped": job.source.num_dropped,
                "num_cut": job.source.num_cut,
                "num_bad_rows": job.source.num_bad,
                "num_skipped_steps": int(result.is_skipped),
                "seconds": seconds,
                "memory_gib": memory_gib,
            }
        )
        folder.log_rows(job.source.take_notes(), step=step)
        name, gib = peak(memory_gib)
        line = {"loss": result.loss, "tokens/s": batch.num_tokens / seconds["step"], name: gib}
        console.step(f"sft {step}", line)
        if job.run.is_save_due(step, num_steps=job.num_steps) or stop.is_asked:
            trainer.save_checkpoint(folder.checkpoints, saved_state(step, job.source, job.megatron))
        stop.end_if_asked(step)


@contextmanager
def _start_trainer(job: SFTJob, console: StepConsole) -> "Generator[TrainerGroup]":
    from rl_train.algorithms import sft_loss  # loads torch, which no mistake in the flags should wait for

    spec = TrainerSpec(
        arguments=job.megatron,
        model_config=job.model_config,
        weights=job.run.first_weights,
        loss=sft_loss,
        config=job.megatron_trainer,
    )
    world_size = job.trainer_placement.world_size
    with (
        ray_cluster(num_actors=world_size),
        take_seats(job.trainer_placement, num_engines=0, is_shared=False) as seats,
    ):
        has_gpus = seats.num_gpus > 0
        check_gpus(has_gpus=has_gpus)
        console.say(where_they_run(num_ranks=world_size, num_engines=0, has_gpus=has_gpus, is_shared=False))
        from rl_train.ray import TrainerGroup

        trainer = TrainerGroup.start(
            spec,
            world_size=world_size,
            config=job.trainer,
            num_gpus=seats.num_gpus,
            placement_group=seats.ranks,
            bundle_indices=None if seats.ranks is None else range(world_size),
            host=seats.host,
        )
        try:
            with console.busy("starting the trainer"):
                trainer.wait_ready()
            yield trainer
        finally:
            trainer.close()
