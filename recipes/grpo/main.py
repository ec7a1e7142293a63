"""The GRPO loop: draw and grade groups, train on their advantages, publish the weights, and evaluate now and then."""

import asyncio
from collections.abc import Sequence

from recipes.clock import PhaseClock
from recipes.console import StepConsole
from recipes.ending import run_to_its_end, telling_how_to_resume
from recipes.grpo.config import PROGRAM, GRPOJob, read_job
from recipes.grpo.evaluation import evaluate_set
from recipes.grpo.placement import Processes, start_processes
from recipes.grpo.record import eval_record, grpo_record, step_line
from recipes.grpo.step import train_on
from recipes.run_folder import RunFolder
from rl_data import GraderPool
from rl_rollout import Rollout


def main(argv: Sequence[str]) -> int:
    """Runs GRPO as the command line says; returns the exit code."""
    return run_to_its_end(PROGRAM, lambda: run(read_job(argv)))


def run(job: GRPOJob) -> None:
    """One run, from the start of its processes to its final model."""
    console = StepConsole()
    console.say(job.config_text)
    folder = RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    with (
        telling_how_to_resume(PROGRAM, folder),
        GraderPool(job.reward.rm_type, job.reward.rm_num_workers, job.reward.rm_timeout_s) as grader,
        start_processes(job, console) as processes,
    ):
        grader.start()
        first = _resume(job, processes, folder) if job.run.resume else 0
        asyncio.run(_train(job, processes, grader, folder, console, first))
        processes.trainer.export_hf(folder.new_model(), job.run.hf_checkpoint)
        console.say(f"model: {folder.model}")


async def _train(
    job: GRPOJob, processes: Processes, grader: GraderPool, folder: RunFolder, console: StepConsole, first: int
) -> None:
    trainer, pool = processes.trainer, processes.pool
    rollout = Rollout(job.rollout, pool, grader)
    publish(first, processes)
    if first == 0 and not job.evaluation.skip_eval_before_train:
        await _evaluate(job, processes, grader, folder, console, step=0)
    for step in console.track(range(first, job.num_rollouts), what="grpo", total=job.num_rollouts, completed=first):
        clock = PhaseClock()
        drawn = await rollout.collect(job.source)
        with clock.phase("train"):
            results = train_on(drawn.groups, trainer, job)
        with clock.phase("publish"):
            publish(step + 1, processes)
        record = grpo_record(step + 1, drawn, results, clock.seconds())
        folder.log_metrics(record)
        folder.log_samples([sample for group in drawn.groups for sample in group.samples], step=step + 1)
        console.step(f"grpo {step + 1}", step_line(record))
        if job.evaluation.is_due(step + 1, num_rollouts=job.num_rollouts):
            await _evaluate(job, processes, grader, folder, console, step=step + 1)
        if job.run.is_save_due(step + 1, num_steps=job.num_rollouts):
            trainer.save_checkpoint(folder.checkpoints, {"step": step + 1, "source": job.source.state_dict()})


def publish(step: int, processes: Processes) -> None:
    """Hands the weights after `step` to every engine; versions count from 1."""
    processes.trainer.publish(step + 1, processes.engines)
    processes.pool.set_policy_version(step + 1)


async def _evaluate(
    job: GRPOJob, processes: Processes, grader: GraderPool, folder: RunFolder, console: StepConsole, *, step: int
) -> None:
    for eval_set in job.eval_sets:
        report = await evaluate_set(eval_set, processes.pool, grader, job.evaluation, job.rollout)
        record = eval_record(step, eval_set.name, report)
        folder.log_metrics(record)
        console.step(f"eval {step}", step_line(record))


def _resume(job: GRPOJob, processes: Processes, folder: RunFolder) -> int:
    """Takes the last checkpoint's place in the data and forgets what was logged after it; returns its step."""
    state = processes.trainer.load_checkpoint(folder.checkpoints)
    step, source = state["step"], state["source"]
    assert isinstance(step, int)
    assert isinstance(source, dict)
    job.source.load_state_dict(source)
    folder.keep_until(step)
    return step
