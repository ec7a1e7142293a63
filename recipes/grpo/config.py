"""Everything that a GRPO run is told, checked before any process starts."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from recipes.arguments.flags_slime import ALWAYS_IN_GRPO
from recipes.arguments.foreign import ForeignParsers, read_model_config
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
from recipes.grpo.checks import check_together
from recipes.grpo.data import check_rows, open_eval_sets, open_training
from recipes.grpo.evaluation import EvalSet
from recipes.grpo.external import check_servers
from recipes.grpo.limits import check_engine_ranks, check_host_memory
from recipes.model_folder import check_weights, precision_note
from recipes.own_configs import GRPO, SFT
from recipes.resume import check_length, check_place, schedule_note
from recipes.run_folder import check_folder
from recipes.tokenizer import open_tokenizer
from rl_data import GraderConfig, PromptSource, RowNote
from rl_data.json import JsonValue
from rl_rollout import EngineConfig, RolloutConfig
from rl_rollout.sglang.arguments import SGLangArguments
from rl_train.algorithms import AlgorithmConfig
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.config import MegatronTrainerConfig, TrainerGroupConfig
from rl_weights import SyncConfig

PROGRAM = "python -m recipes.grpo"
NEEDLESS = {
    "--eval-only": {
        "--prompt-data": "none",
        "--num-rollout": "1",
        "--rollout-batch-size": "1",
        "--global-batch-size": "1",
    }
}
"""A flag -> the flags that need not be given beside it, and what they are then."""


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
    source: PromptSource
    bad_rows: Sequence[RowNote]
    """Rows, for training or evaluation, that will be skipped."""
    eval_sets: Sequence[EvalSet]
    num_rollouts: int
    num_steps_per_rollout: int
    """Optimizer steps that follow one rollout."""
    notes: Sequence[str]
    """What a user should know of the run before it starts."""
    config_text: str
    """The resolved configuration, as it is saved."""

    @property
    def extent(self) -> Mapping[str, int]:
        """How long it goes on, on how many processes."""
        num_ranks = self.trainer_placement.world_size
        servers = self.engine_placement.rollout_external_engine_addrs
        num_engines = len(servers) or self.engine_placement.num_engines(num_ranks)
        return {"steps": self.num_rollouts, "trainer ranks": num_ranks, "engines": num_engines}

    @property
    def sync(self) -> SyncConfig:
        """How weights leave the trainer. Handles of external engines take bytes, and write their files themselves."""
        if self.engine_placement.rollout_external_engine_addrs:
            return SyncConfig(transport="host")
        return self.weight_sync.sync_config(self.run.run_dir)


def read_job(argv: Sequence[str], parsers: ForeignParsers | None = None) -> GRPOJob:
    """The run that a command line describes.

    Args:
        argv: the words of the command line.
        parsers: those that read the flags of Megatron and SGLang; of its own if None.

    Raises:
        UsageError, DataError, CheckpointError, RolloutConfigError, TrainConfigError: what the user can mend.
    """
    return job_of(parse(argv), parsers)


def parse(argv: Sequence[str]) -> ParsedArguments:
    """The command line, read but for what belongs to Megatron and SGLang.

    Raises:
        UsageError: see `parse_arguments`.
    """
    return parse_arguments(
        argv,
        GRPO,
        program=PROGRAM,
        description="GRPO with Megatron-Core and SGLang.",
        always=ALWAYS_IN_GRPO,
        needless=NEEDLESS,
        others={"recipes.sft": SFT},
    )


def job_of(parsed: ParsedArguments, parsers: ForeignParsers | None = None) -> GRPOJob:
    """The run that was asked for; see `read_job`."""
    run, rollout, batch = parsed.get(RunConfig), parsed.get(RolloutConfig), parsed.get(BatchConfig)
    config_text = resolved_yaml(parsed)
    check_folder(run.run_dir, run.checkpoints, config_text=config_text, is_resumed=run.resume)
    check_together(parsed)
    num_steps_per_rollout = batch.num_steps_per_rollout(rollout.rollout_batch_size * rollout.n_samples_per_prompt)
    model_config = read_model_config(run.hf_checkpoint)
    check_weights(run, model_config, has_engines=True)
    check_engine_ranks(parsed.get(EnginePlacementConfig).rollout_num_gpus_per_engine, model_config)
    server_rooms = check_servers(parsed.get(EnginePlacementConfig), run.hf_checkpoint)
    world_size = parsed.get(TrainerPlacementConfig).world_size
    with nullcontext(parsers) if parsers else ForeignParsers() as loading:
        loading.load(parsed)
        tokenizer = open_tokenizer(run.hf_checkpoint)
        rows = check_rows(parsed, tokenizer)
        num_rollouts = run.num_steps(num_rows=rows.num_good, rows_per_step=rollout.rollout_batch_size)
        check_length(run, num_rollouts)
        foreign = loading.read(
            parsed,
            hf_checkpoint=run.hf_checkpoint,
            world_size=world_size,
            train_iters=num_rollouts * num_steps_per_rollout,
        )
    batch.check_divides(num_data_parallel_ranks=world_size // foreign.megatron.model_parallel_size)
    check_recompute(parsed.get(MegatronTrainerConfig), foreign.megatron)
    num_nodes = parsed.get(TrainerPlacementConfig).actor_num_nodes
    if not run.check:  # which may be asked on another machine
        check_host_memory(parsed.get(EnginePlacementConfig), model_config, foreign.megatron, num_nodes=num_nodes)
    source = open_training(parsed, foreign, tokenizer, rows, server_rooms)
    check_place(run, source)
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
        source=source,
        bad_rows=[*rows.bad, *(note for notes in rows.bad_held_out.values() for note in notes)],
        eval_sets=open_eval_sets(parsed, foreign, tokenizer, rows.bad_held_out, server_rooms),
        num_rollouts=num_rollouts,
        num_steps_per_rollout=num_steps_per_rollout,
        notes=[*rows.notes, *_notes(parsed, foreign.megatron, model_config, num_rows=rows.num_good)],
        config_text=config_text,
    )


def _notes(
    parsed: ParsedArguments, megatron: MegatronArguments, model_config: Mapping[str, JsonValue], *, num_rows: int
) -> Sequence[str]:
    run = parsed.get(RunConfig)
    notes = [
        precision_note(model_config, megatron),
        run.left_over_note(num_rows=num_rows, rows_per_step=parsed.get(RolloutConfig).rollout_batch_size),
        schedule_note(run, megatron),
        _divergence_note(parsed.get(AlgorithmConfig)),
        None if parsed.get(EvalConfig).data_sets else "no evaluation: --eval-prompt-data is not given",
    ]
    return [note for note in notes if note is not None]


def _divergence_note(algorithm: AlgorithmConfig) -> str | None:
    """What a user should know whose divergence in the loss holds the policy nowhere; None otherwise."""
    is_in_loss = algorithm.use_kl_loss and algorithm.kl_loss_coef != 0
    if not is_in_loss or algorithm.kl_loss_type != "k1" or algorithm.use_unbiased_kl:
        return None
    return "--kl-loss-type k1: its gradient averages to 0; low_var_kl pulls towards the reference"
