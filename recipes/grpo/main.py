"""The GRPO loop: draw and grade groups, train on their advantages, publish the weights, and evaluate now and then."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from recipes.bad_rows import tell_bad_rows
from recipes.check_only import tell_checked
from recipes.clock import PhaseClock
from recipes.config import EvalConfig
from recipes.console import StepConsole
from recipes.ending import StopAfterStep, run_to_its_end, telling_how_to_resume
from recipes.grpo.config import PROGRAM, GRPOJob, job_of, parse
from recipes.grpo.eval_only import eval_job_of, run_evaluation
from recipes.grpo.evaluation import evaluate_set, open_eval_graders
from recipes.grpo.memory import MemorySwitch
from recipes.grpo.placement import Processes, start_processes
from recipes.grpo.record import eval_record, failure_note, grpo_record, step_line
from recipes.grpo.step import train_on
from recipes.resume import resume_run, saved_state
from recipes.run_folder import MetricsLine, RunFolder
from rl_data import GraderPool, Sample
from rl_rollout import Rollout
from rl_weights import SyncError


def main(argv: Sequence[str]) -> int:
    """Runs GRPO as the command line says; returns the exit code."""
    return run_to_its_end(PROGRAM, lambda: _read(argv), lambda work: work())


def _read(argv: Sequence[str]) -> Callable[[], None]:
    """What the command line asks for, read and checked."""
    parsed = parse(argv)
    if parsed.get(EvalConfig).eval_only:
        evaluation = eval_job_of(parsed)
        return partial(tell_checked, evaluation) if evaluation.run.check else partial(run_evaluation, evaluation)
    job = job_of(parsed)
    return partial(tell_checked, job) if job.run.check else partial(run, job)


def run(job: GRPOJob) -> None:
    """One run, from the start of its processes to its final model."""
    console = StepConsole()
    console.say(job.config_text)
    for note in job.notes:
        console.say(note)
    folder = RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    tell_bad_rows(job.bad_rows, folder, console, is_resumed=job.run.resume)
    if not job.run.resume:
        folder.log_rows([note for eval_set in job.eval_sets for note in eval_set.left_out], step=0)
    with (
        telling_how_to_resume(PROGRAM, folder),
        GraderPool(job.grading) as grader,
        open_eval_graders(job.evaluation, grader, job.grading) as eval_graders,
        start_processes(job, console) as processes,
    ):
        grader.start()
        grpo = _GRPO(job, processes, grader, eval_graders, folder, console)
        done = resume_run(processes.trainer, folder, job.source) if job.run.resume else 0
        with StopAfterStep() as stop:
            asyncio.run(grpo.train(done + 1, stop))
        processes.trainer.export_hf(folder.new_model(), job.run.hf_checkpoint)
        console.say(f"model: {folder.model}")


class _GRPO:
    """The parts of a run, and the loop over them."""

    def __init__(
        self,
        job: GRPOJob,
        processes: Processes,
        grader: GraderPool,
        eval_graders: Mapping[str, GraderPool],
        folder: RunFolder,
        console: StepConsole,
    ) -> None:
        self.job, self.eval_graders, self.folder, self.console = job, eval_graders, folder, console
        self.trainer, self.engines, self.pool = processes.trainer, processes.engines, processes.pool
        self.rollout = Rollout(job.rollout, processes.pool, grader)
        self.memory = MemorySwitch(job.engine_placement, processes.trainer, processes.pool, self.publish)

    async def train(self, first_step: int, stop: StopAfterStep) -> None:
        """Takes the steps `first_step` to the last, counted from 1, or until it is asked to stop."""
        job, last = self.job, self.job.num_rollouts
        await self.memory.to_generation(PhaseClock(), after_step=first_step - 1)
        if job.evaluation.is_due(first_step - 1, num_rollouts=last):  # of a resumed run, if it ended before this one
            await self.evaluate(first_step - 1, stop)
            stop.end_if_asked(first_step - 1)
        steps = range(first_step, last + 1)
        for step in self.console.track(steps, what="grpo", total=last, completed=first_step - 1):
            clock = PhaseClock()
            drawn = await self.rollout.collect(job.source)
            await self.memory.to_training(clock)
            with clock.phase("train"):
                results = train_on(drawn.groups, self.trainer, job)
            await self.memory.to_generation(clock, after_step=step)
            record = grpo_record(
                step,
                drawn,
                results,
                seconds=clock.seconds(),
                memory_gib=self.memory.log.take(),
                prompts={
                    "num_dropped_prompts": job.source.num_dropped,
                    "num_cut_prompts": job.source.num_cut,
                    "num_bad_rows": job.source.num_bad,
                },
            )
            # Samples first: whoever reads the line of a step finds all of its samples.
            self.folder.log_rows(job.source.take_notes(), step=step)
            self.folder.log_samples([*drawn.samples, *drawn.failed], step=step)
            self.log(record, drawn.failed, title=f"grpo {step}")
            is_saved = job.run.is_save_due(step, num_steps=last)
            if is_saved:
                await self.save(step)
            if job.evaluation.is_due(step, num_rollouts=last):
                await self.evaluate(step, stop)
            if stop.is_asked and not is_saved:
                await self.save(step)
            stop.end_if_asked(step)
        await self.memory.to_training(PhaseClock())

    def publish(self, after_step: int) -> None:
        """Hands the present weights to every engine that has not failed; versions count from 1."""
        live = [engine for engine in self.engines if engine.name not in self.pool.failed]
        sync = self.job.weight_sync
        try:
            self.trainer.publish(
                after_step + 1,
                live,
                bucket_bytes=sync.update_weight_buffer_size,
                sync=self.job.sync,
                verify=sync.check_weight_update_equal,
            )
        except SyncError as error:
            if sync.check_weight_update_equal:
                raise
            self.console.say(f"{error}\nwhat failed gets no prompts until it has a whole version")
        self.pool.set_policy_version(after_step + 1)

    async def evaluate(self, after_step: int, stop: StopAfterStep) -> None:
        """Samples and grades every evaluation set that was not after this step, until it is asked to stop."""
        done = self.folder.evaluated(after_step)
        for eval_set in self.job.eval_sets:
            if eval_set.name in done:
                continue
            work = evaluate_set(eval_set, self.pool, self.eval_graders[eval_set.name], self.job.rollout)
            # Before the first step there is no checkpoint that a resumed run could take up and evaluate.
            report = await (stop.unless_asked(work) if after_step > 0 else work)
            if report is None:
                await self.pool.abort_all()
                return
            self.log(eval_record(after_step, eval_set, report), report.samples, title=f"eval {after_step}")

    def log(self, record: MetricsLine, samples: Sequence[Sample], *, title: str) -> None:
        """One line into metrics.jsonl and its short form onto the terminal, with a warning if samples failed."""
        self.folder.log_metrics(record)
        self.console.step(title, step_line(record))
        if note := failure_note(samples):
            self.console.say(note)

    async def save(self, step: int) -> None:
        """Writes a checkpoint that `resume_run` goes on from."""
        state = saved_state(step, self.job.source, self.job.megatron)
        async with self.memory.whole_trainer(after_step=step):
            self.trainer.save_checkpoint(self.folder.checkpoints, state)
