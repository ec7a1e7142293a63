"""`--eval-only`: engines without a trainer, and one evaluation of the weights that a run would start from."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from recipes.arguments.foreign import ForeignParsers, read_model_config
from recipes.arguments.parse import ParsedArguments
from recipes.arguments.resolved import resolved_yaml
from recipes.bad_rows import tell_bad_rows
from recipes.config import EnginePlacementConfig, EvalConfig, RunConfig, TrainerPlacementConfig
from recipes.console import StepConsole
from recipes.errors import UsageError
from recipes.grpo.checks import check_held_out
from recipes.grpo.data import check_rows, open_eval_sets
from recipes.grpo.evaluation import EvalSet, evaluate_set, open_eval_graders
from recipes.grpo.limits import check_engine_ranks
from recipes.grpo.placement import EngineSpec, start_engines
from recipes.grpo.record import eval_record, failure_note, step_line
from recipes.model_folder import check_weights
from recipes.run_folder import RunFolder, check_folder
from recipes.tokenizer import open_tokenizer
from rl_data import GraderConfig, GraderPool, RowNote
from rl_rollout import EngineConfig, RolloutConfig
from rl_train.megatron.checkpoint_folder import TRACKER


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalJob:
    """An evaluation that can start."""

    run: RunConfig
    engines: EngineSpec
    num_engines: int
    rollout: RolloutConfig
    grading: GraderConfig
    evaluation: EvalConfig
    bad_rows: Sequence[RowNote]
    eval_sets: Sequence[EvalSet]
    config_text: str
    notes: Sequence[str] = ()

    @property
    def extent(self) -> Mapping[str, int]:
        """On how much, and on how many processes."""
        return {"evaluation sets": len(self.eval_sets), "engines": self.num_engines}


def eval_job_of(parsed: ParsedArguments, parsers: ForeignParsers | None = None) -> EvalJob:
    """The evaluation that was asked for.

    Args:
        parsed: the command line.
        parsers: those that read the flags of Megatron and SGLang; of its own if None.

    Raises:
        UsageError, DataError, CheckpointError, RolloutConfigError, TrainConfigError: what the user can mend.
    """
    run, placement = parsed.get(RunConfig), parsed.get(EnginePlacementConfig)
    if run.resume:
        raise UsageError("--eval-only: there is nothing to go on with, so --resume has no effect")
    if placement.rollout_external_engine_addrs:
        raise UsageError("--eval-only: it starts engines, so --rollout-external-engine-addrs has no effect")
    config_text = resolved_yaml(parsed)
    check_folder(run.run_dir, run.checkpoints, config_text=config_text, is_resumed=False)
    check_held_out(parsed)
    model_config = read_model_config(run.hf_checkpoint)
    check_weights(run, model_config, has_engines=True, has_trainer=False)
    check_engine_ranks(placement.rollout_num_gpus_per_engine, model_config)
    world_size = parsed.get(TrainerPlacementConfig).world_size
    with nullcontext(parsers) if parsers else ForeignParsers() as loading:
        loading.load(parsed)
        tokenizer = open_tokenizer(run.hf_checkpoint)
        rows = check_rows(parsed, tokenizer)
        foreign = loading.read(parsed, hf_checkpoint=run.hf_checkpoint, world_size=world_size, train_iters=1)
    rollout = parsed.get(RolloutConfig)
    return EvalJob(
        run=run,
        engines=EngineSpec(
            model=run.hf_checkpoint,
            sglang=foreign.sglang,
            config=parsed.get(EngineConfig),
            needs_tokenizer=bool(rollout.rollout_stop),
            num_gpus=placement.rollout_num_gpus_per_engine,
        ),
        num_engines=placement.num_engines(world_size),
        rollout=rollout,
        grading=parsed.get(GraderConfig),
        evaluation=parsed.get(EvalConfig),
        bad_rows=[note for notes in rows.bad_held_out.values() for note in notes],
        eval_sets=open_eval_sets(parsed, foreign, tokenizer, rows.bad_held_out, {}),
        notes=rows.notes,
        config_text=config_text,
    )


def run_evaluation(job: EvalJob) -> None:
    """Starts the engines and evaluates on every data set: a line of metrics.jsonl and of the terminal for each."""
    console = StepConsole()
    for text in (job.config_text, *job.notes):
        console.say(text)
    folder = RunFolder(job.run.run_dir, job.run.checkpoints, config_text=job.config_text)
    tell_bad_rows(job.bad_rows, folder, console, is_resumed=False)
    folder.log_rows([note for eval_set in job.eval_sets for note in eval_set.left_out], step=0)
    engines = job.engines.of_model(_model_folder(job.run, folder, console))
    with (
        GraderPool(job.grading) as training,
        open_eval_graders(job.evaluation, training, job.grading) as graders,
        start_engines(engines, num_engines=job.num_engines, console=console) as pool,
    ):
        for eval_set in job.eval_sets:
            report = asyncio.run(evaluate_set(eval_set, pool, graders[eval_set.name], job.rollout))
            record = eval_record(0, eval_set, report)
            folder.log_samples(report.samples, step=0)
            folder.log_metrics(record)
            console.step("eval", step_line(record))
            if note := failure_note(report.samples):
                console.say(note)


def _model_folder(run: RunConfig, folder: RunFolder, console: StepConsole) -> Path:
    """The weights as engines read them: where they lie, or of a checkpoint of Megatron's, as the run's model."""
    weights = run.first_weights
    if not (weights / TRACKER).is_file():
        return weights
    from rl_weights import convert_torch_dist_to_hf  # loads torch, for which no mistake in the flags should wait

    with console.busy(f"converting {weights}"):
        convert_torch_dist_to_hf(weights, run.hf_checkpoint, folder.new_model())
    return folder.model
