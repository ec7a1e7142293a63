"""Everything that an SFT run is told, checked before any process starts."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from recipes.arguments.flags_slime import ALWAYS_IN_SFT
from recipes.arguments.foreign import ForeignParsers, read_model_config
from recipes.arguments.parse import parse_arguments
from recipes.arguments.resolved import resolved_yaml
from recipes.config import BatchConfig, RunConfig, TrainerPlacementConfig
from recipes.config.checks import check_recompute
from recipes.config.limits import max_positions, token_budget
from recipes.errors import UsageError
from recipes.model_folder import check_weights, precision_note
from recipes.own_configs import GRPO, SFT
from recipes.resume import check_length, check_place, schedule_note
from recipes.run_folder import check_folder
from recipes.tokenizer import open_tokenizer
from rl_data import ConversationDataConfig, ConversationSource, RowNote, Tokenizer
from rl_data.json import JsonValue
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.config import MegatronTrainerConfig, TrainerGroupConfig

PROGRAM = "python -m recipes.sft"


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTJob:
    """An SFT run that can start: settings, and data that was found to be whole."""

    run: RunConfig
    trainer_placement: TrainerPlacementConfig
    batch: BatchConfig
    trainer: TrainerGroupConfig
    megatron_trainer: MegatronTrainerConfig
    megatron: MegatronArguments
    model_config: Mapping[str, JsonValue]
    source: ConversationSource
    bad_rows: Sequence[RowNote]
    """Rows that will be skipped."""
    num_steps: int
    notes: Sequence[str]
    """What a user should know of the run before it starts."""
    config_text: str
    """The resolved configuration, as it is saved."""

    @property
    def extent(self) -> Mapping[str, int]:
        """How long it goes on, on how many processes."""
        return {"steps": self.num_steps, "trainer ranks": self.trainer_placement.world_size}


def read_job(argv: Sequence[str], parsers: ForeignParsers | None = None) -> SFTJob:
    """The run that a command line describes.

    Args:
        argv: the words of the command line.
        parsers: those that read Megatron's flags; of its own if None.

    Raises:
        UsageError, DataError, CheckpointError, TrainConfigError: what the user can mend.
    """
    parsed = parse_arguments(
        argv,
        SFT,
        program=PROGRAM,
        description="SFT with Megatron-Core.",
        takes_sglang=False,
        always=ALWAYS_IN_SFT,
        others={"recipes.grpo": GRPO},
    )
    run, placement, batch = parsed.get(RunConfig), parsed.get(TrainerPlacementConfig), parsed.get(BatchConfig)
    config_text = resolved_yaml(parsed)
    check_folder(run.run_dir, run.checkpoints, config_text=config_text, is_resumed=run.resume)
    model_config = read_model_config(run.hf_checkpoint)
    if run.ref_load is not None and not run.loads_what_it_saved:
        raise UsageError(f"--ref-load {run.ref_load} has no effect in supervised training; give --load")
    check_weights(run, model_config, has_engines=False)
    data = parsed.get(ConversationDataConfig)
    with nullcontext(parsers) if parsers else ForeignParsers() as loading:
        loading.load(parsed)
        tokenizer = open_tokenizer(run.hf_checkpoint)
        source = ConversationSource(data, tokenizer)
        bad_rows = source.validate()
        rows = {"num_rows": len(source) - len(bad_rows), "rows_per_step": batch.global_batch_size}
        num_steps = run.num_steps(**rows)
        check_length(run, num_steps)
        foreign = loading.read(
            parsed, hf_checkpoint=run.hf_checkpoint, world_size=placement.world_size, train_iters=num_steps
        )
    batch.check_divides(num_data_parallel_ranks=placement.world_size // foreign.megatron.model_parallel_size)
    check_recompute(parsed.get(MegatronTrainerConfig), foreign.megatron)
    room = min(token_budget(batch, foreign.megatron), max_positions(foreign.megatron))
    source = _open_source(data, tokenizer, bad_rows, room=room)
    check_place(run, source)
    notes = (
        precision_note(model_config, foreign.megatron),
        run.left_over_note(**rows),
        schedule_note(run, foreign.megatron),
    )
    return SFTJob(
        run=run,
        trainer_placement=placement,
        batch=batch,
        trainer=parsed.get(TrainerGroupConfig),
        megatron_trainer=parsed.get(MegatronTrainerConfig),
        megatron=foreign.megatron,
        model_config=model_config,
        source=source,
        bad_rows=bad_rows,
        num_steps=num_steps,
        notes=[note for note in notes if note is not None],
        config_text=config_text,
    )


def _open_source(
    data: ConversationDataConfig, tokenizer: Tokenizer, bad_rows: Sequence[RowNote], *, room: int
) -> ConversationSource:
    """The conversations that fit: longer ones would fit neither into a micro-batch nor into the model."""
    data = replace(data, max_length=room if data.max_length is None else min(room, data.max_length))
    # Fails where every conversation is too long, or the chat template refuses the first.
    ConversationSource(replace(data, num_data_workers=0), tokenizer).next_batch(1)
    source = ConversationSource(data, tokenizer)
    source.leave_out(bad_rows)
    return source
