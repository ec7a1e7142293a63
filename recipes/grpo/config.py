"""Everything that a GRPO run is told, checked before any process starts."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

from recipes.arguments.flags_slime import ALWAYS_IN_GRPO
from recipes.arguments.foreign import ForeignArguments, ForeignParsers, read_model_config
from recipes.arguments.parse import ParsedArguments, parse_arguments
from recipes.arguments.resolved import resolved_yaml
from recipes.config import (
    BatchConfig,
    EnginePlacementConfig,
    EvalConfig,
    RunConfig,
    TrainerPlacementConfig,
    WeightSyncConfig,
)
from recipes.config.checks import check_recompute
from recipes.config.limits import token_budget
from recipes.grpo.checks import check_together
from recipes.grpo.evaluation import EvalSet, eval_data, open_eval_grader, open_eval_set
from recipes.grpo.limits import check_host_memory, engine_rooms, prompt_limit
from recipes.model_folder import check_weights
from recipes.run_folder import check_folder
from recipes.tokenizer import open_tokenizer
from rl_data import GraderConfig, GraderPool, PromptDataConfig, PromptSource, RowNote, Tokenizer
from rl_data.json import JsonValue
from rl_rollout import EngineConfig, RolloutConfig
from rl_rollout.sglang.arguments import SGLangArguments
from rl_train.algorithms import AlgorithmConfig
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.config import MegatronTrainerConfig, TrainerGroupConfig

PROGRAM = "python -m recipes.grpo"
OWN_CONFIGS = (
    RunConfig,
    TrainerPlacementConfig,
    EnginePlacementConfig,
    WeightSyncConfig,
    PromptDataConfig,
    RolloutConfig,
    GraderConfig,
    AlgorithmConfig,
    BatchConfig,
    EvalConfig,
    EngineConfig,
    MegatronTrainerConfig,
    TrainerGroupConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOJob:
    """A GRPO run that can start: settings, and data that was found to be whole."""

    run: RunConfig
    trainer_placement: TrainerPlacementConfig
    engine_placement: EnginePlacementConfig
    weight_sync: WeightSyncConfig
    rollout: RolloutConfig
    grading: GraderConfig
    algorithm: AlgorithmConfig
    batch: BatchConfig
    evaluation: EvalConfig
    engine: EngineConfig
    trainer: TrainerGroupConfig
    megatron_trainer: MegatronTrainerConfig
    megatron: MegatronArguments
    sglang: SGLangArguments
    model_config: Mapping[str, JsonValue]
    tokenizer: Tokenizer
    source: PromptSource
    bad_rows: Sequence[RowNote]
    """Rows, for training or evaluation, that will be skipped."""
    eval_sets: Sequence[EvalSet]
    num_rollouts: int
    num_steps_per_rollout: int
    """Optimizer steps that follow one rollout."""
    config_text: str
    """The resolved configuration, as it is saved."""


def read_job(argv: Sequence[str], parsers: ForeignParsers | None = None) -> GRPOJob:
    """The run that a command line describes.

    Args:
        argv: the words of the command line.
        parsers: those that read the flags of Megatron and SGLang; of its own if None.

    Raises:
        UsageError, DataError, CheckpointError, RolloutConfigError, TrainConfigError: what the user can mend.
    """
    parsed = parse_arguments(
        argv,
        OWN_CONFIGS,
        program=PROGRAM,
        description="GRPO with Megatron-Core and SGLang.",
        always=ALWAYS_IN_GRPO,
    )
    run, rollout, batch = parsed.get(RunConfig), parsed.get(RolloutConfig), parsed.get(BatchConfig)
    config_text = resolved_yaml(parsed)
    check_folder(run.run_dir, run.checkpoints, config_text=config_text, is_resumed=run.resume)
    check_together(parsed)
    num_steps_per_rollout = batch.num_steps_per_rollout(rollout.rollout_batch_size * rollout.n_samples_per_prompt)
    model_config = read_model_config(run.hf_checkpoint)
    check_weights(run.hf_checkpoint, model_config)
    world_size = parsed.get(TrainerPlacementConfig).world_size
    with nullcontext(parsers) if parsers else ForeignParsers() as loading:
        loading.load(parsed)
        tokenizer = open_tokenizer(run.hf_checkpoint)
        rows = _check_rows(parsed, tokenizer)
        num_rollouts = run.num_steps(num_rows=rows.num_rows, rows_per_step=rollout.rollout_batch_size)
        foreign = loading.read(
            parsed,
            hf_checkpoint=run.hf_checkpoint,
            world_size=world_size,
            train_iters=num_rollouts * num_steps_per_rollout,
        )
    batch.check_divides(num_data_parallel_ranks=world_size // foreign.megatron.model_parallel_size)
    check_recompute(parsed.get(MegatronTrainerConfig), foreign.megatron)
    check_host_memory(parsed.get(EnginePlacementConfig), model_config, foreign.megatron)
    source, eval_sets = _open_data(parsed, foreign, tokenizer, rows)
    return GRPOJob(
        run=run,
        trainer_placement=parsed.get(TrainerPlacementConfig),
        engine_placement=parsed.get(EnginePlacementConfig),
        weight_sync=parsed.get(WeightSyncConfig),
        rollout=rollout,
        grading=parsed.get(GraderConfig),
        algorithm=parsed.get(AlgorithmConfig),
        batch=batch,
        evaluation=parsed.get(EvalConfig),
        engine=parsed.get(EngineConfig),
        trainer=parsed.get(TrainerGroupConfig),
        megatron_trainer=parsed.get(MegatronTrainerConfig),
        megatron=foreign.megatron,
        sglang=foreign.sglang,
        model_config=model_config,
        tokenizer=tokenizer,
        source=source,
        bad_rows=[*rows.bad, *(note for notes in rows.bad_by_eval_set.values() for note in notes)],
        eval_sets=eval_sets,
        num_rollouts=num_rollouts,
        num_steps_per_rollout=num_steps_per_rollout,
        config_text=config_text,
    )


class _Rows(NamedTuple):
    """What is known of the data after every row was checked."""

    num_rows: int
    """For training."""
    bad: Sequence[RowNote]
    """Rows for training that will be skipped."""
    bad_by_eval_set: Mapping[str, Sequence[RowNote]]


def _check_rows(parsed: ParsedArguments, tokenizer: Tokenizer) -> _Rows:
    """Checks every row of training and evaluation, and that it can be graded."""
    data = parsed.get(PromptDataConfig)
    grading, evaluation = parsed.get(GraderConfig), parsed.get(EvalConfig)
    with GraderPool(grading) as grader, open_eval_grader(evaluation, grader, grading) as eval_grader:
        source = PromptSource(data, tokenizer, check_label=grader.check_label)
        bad = source.validate()
        bad_by_eval_set = {
            name: PromptSource(held_out, tokenizer, check_label=eval_grader.check_label).validate()
            for name, held_out in eval_data(evaluation, data).items()
        }
    return _Rows(num_rows=len(source), bad=bad, bad_by_eval_set=bad_by_eval_set)


def _open_data(
    parsed: ParsedArguments, foreign: ForeignArguments, tokenizer: Tokenizer, rows: _Rows
) -> tuple[PromptSource, list[EvalSet]]:
    """The prompts that fit with the longest response: into an engine, and for training into a micro-batch too."""
    data, rollout, evaluation = parsed.get(PromptDataConfig), parsed.get(RolloutConfig), parsed.get(EvalConfig)
    engine = engine_rooms(foreign.megatron, foreign.sglang)
    limit = prompt_limit(
        data.rollout_max_prompt_len,
        {"--max-tokens-per-gpu": token_budget(parsed.get(BatchConfig), foreign.megatron), **engine},
        response_flag="--rollout-max-response-len",
        response=rollout.rollout_max_response_len,
    )
    training = replace(data, rollout_max_prompt_len=limit)
    # Fails where every prompt is too long, or the chat template refuses the first.
    probe = PromptSource(replace(training, num_data_workers=0), tokenizer)
    probe.leave_out(rows.bad)
    probe.next_batch(1)
    source = PromptSource(training, tokenizer)
    source.leave_out(rows.bad)
    held_out_data = eval_data(evaluation, data)
    if not held_out_data:
        return source, []
    eval_limit = prompt_limit(
        data.rollout_max_prompt_len,
        engine,
        response_flag="--eval-max-response-len",
        response=evaluation.eval_max_response_len or rollout.rollout_max_response_len,
    )
    eval_sets = [
        open_eval_set(
            name,
            replace(held_out, rollout_max_prompt_len=eval_limit),
            tokenizer,
            bad_rows=rows.bad_by_eval_set[name],
        )
        for name, held_out in held_out_data.items()
    ]
    return source, eval_sets
