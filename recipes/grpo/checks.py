"""Settings of a GRPO run that make no sense together, though each does alone."""

from collections.abc import Iterator, Set
from pathlib import Path

from recipes.arguments.dataclass_flags import flags_of
from recipes.arguments.known import SGLANG_PREFIX
from recipes.arguments.parse import PRESETS, ParsedArguments, located
from recipes.arguments.sources import Given
from recipes.config import EnginePlacementConfig, EvalConfig, RunConfig, TrainerPlacementConfig, WeightSyncConfig
from recipes.errors import UsageError
from recipes.grpo.evaluation import eval_grading, naming_set
from recipes.run_folder import CONFIG_FILE
from rl_data import GraderConfig, PromptDataConfig
from rl_data.grading import can_be_negative, needs_label
from rl_rollout import RolloutConfig
from rl_train.algorithms import AlgorithmConfig


def check_together(parsed: ParsedArguments) -> None:
    """Checks what no dataclass can check alone.

    Raises:
        UsageError: with every problem, each naming its flag.
    """
    data, rollout = parsed.get(PromptDataConfig), parsed.get(RolloutConfig)
    algorithm = parsed.get(AlgorithmConfig)
    problems = [
        *_label_problems(data, parsed.get(GraderConfig)),
        *_template_problems(data),
        *_held_out_problems(parsed.get(EvalConfig), data, parsed.get(GraderConfig)),
        *_sampling_problems(rollout),
        *_group_problems(rollout, algorithm),
        *_reward_problems(parsed.get(GraderConfig), algorithm),
        *_eval_problems(parsed),
        *_placement_problems(parsed.get(EnginePlacementConfig), parsed.get(TrainerPlacementConfig)),
        *_external_problems(parsed),
    ]
    if parsed.get(WeightSyncConfig).update_weight_transport == "nccl" and parsed.get(EnginePlacementConfig).colocate:
        problems.append(
            "--update-weight-transport nccl: NCCL joins different GPUs, and with --colocate they are shared"
        )
    run = parsed.get(RunConfig)
    if run.ref_load is not None and not algorithm.needs_reference and not run.loads_what_it_saved:
        problems.append(f"--ref-load {run.ref_load} has no effect without --use-kl-loss")
    if problems:
        raise UsageError("\n".join(problems))


def check_held_out(parsed: ParsedArguments) -> None:
    """Checks what no dataclass can check alone of an evaluation without training.

    Raises:
        UsageError: with every problem, each naming its flag.
    """
    problems = [
        *_template_problems(parsed.get(PromptDataConfig)),
        *_held_out_problems(parsed.get(EvalConfig), parsed.get(PromptDataConfig), parsed.get(GraderConfig)),
        *_engines_alone_problems(parsed.get(EnginePlacementConfig), parsed.get(TrainerPlacementConfig)),
    ]
    if problems:
        raise UsageError("\n".join(problems))


def without_effect(parsed: ParsedArguments, asked_for: Set[str]) -> list[str]:
    """What to say of the settings of graders that neither a reward type nor a row that was read asks for."""
    grading, chosen = parsed.get(GraderConfig), parsed.given.get("--rm-type")
    where = "the default" if chosen is None else chosen.origin
    rm_type = f"--rm-type {grading.chosen_type}" + (f" ({where})" if where else "")
    return [
        located(
            f"--{name.replace('_', '-')} {getattr(grading, name)} has no effect: {rm_type} does not ask for {grader}, "
            f"nor does a row; give --rm-type {grader}, or a sum as '{grading.chosen_type} + {grader}'",
            parsed.given,
        )
        for name, grader in grading.without_effect(asked_for).items()
    ]


def _label_problems(data: PromptDataConfig, grading: GraderConfig) -> Iterator[str]:
    if data.label_key is None and needs_label(grading.chosen_type):
        yield f"--label-key is missing: --rm-type {grading.chosen_type} compares with a reference answer"


def _held_out_problems(evaluation: EvalConfig, data: PromptDataConfig, grading: GraderConfig) -> Iterator[str]:
    """Of each data set, by what it has of its own and by what it takes from training."""
    for name in evaluation.data_sets:
        own = evaluation.of_set(name)
        try:
            with naming_set(name):
                chosen = eval_grading(own, grading).chosen_type
        except UsageError as error:
            yield str(error)
            continue
        if own.eval_label_key is None and data.label_key is None and needs_label(chosen):
            flag = "--rm-type" if own.eval_rm_type is None else "--eval-rm-type"
            yield (
                f"--eval-prompt-data {name}: --eval-label-key, or --label-key, is missing: {flag} {chosen} compares "
                "with a reference answer"
            )


def _template_problems(data: PromptDataConfig) -> Iterator[str]:
    if data.apply_chat_template_kwargs and not data.apply_chat_template:
        yield "--apply-chat-template-kwargs has no effect without --apply-chat-template"


def _sampling_problems(rollout: RolloutConfig) -> Iterator[str]:
    """Both log-probabilities of the loss are those of the whole distribution."""
    reason = "samples of a truncated distribution would be trained on as if they came from the whole one"
    if rollout.rollout_top_p != 1:
        yield f"--rollout-top-p {rollout.rollout_top_p}: expected 1; {reason}"
    if rollout.rollout_top_k != -1:
        yield f"--rollout-top-k {rollout.rollout_top_k}: expected -1; {reason}"


def _group_problems(rollout: RolloutConfig, algorithm: AlgorithmConfig) -> Iterator[str]:
    has_group_baseline = algorithm.advantage_estimator != "reinforce_plus_plus" and algorithm.rewards_normalization
    if rollout.n_samples_per_prompt == 1 and has_group_baseline:
        yield (
            f"--n-samples-per-prompt 1: nothing is learned under --advantage-estimator "
            f"{algorithm.advantage_estimator}, which compares the samples of a prompt"
        )


def _reward_problems(grading: GraderConfig, algorithm: AlgorithmConfig) -> Iterator[str]:
    if algorithm.advantage_estimator == "maxrl" and can_be_negative(grading.chosen_type):
        yield (
            f"--advantage-estimator maxrl: it takes no rewards below 0, which --rm-type {grading.chosen_type} can give"
        )


def _eval_problems(parsed: ParsedArguments) -> Iterator[str]:
    """A preset may say how an evaluation is to be, and leave whether there is one to the command line."""
    if parsed.get(EvalConfig).data_sets:
        return
    for flag in flags_of(EvalConfig):
        if flag.name in parsed.given and not parsed.given[flag.name].origin:
            yield f"{flag.name} has no effect without --eval-prompt-data"


def _placement_problems(engines: EnginePlacementConfig, trainer: TrainerPlacementConfig) -> Iterator[str]:
    if not engines.colocate:
        return
    num_gpus, of_each = engines.rollout_num_gpus, engines.rollout_num_gpus_per_engine
    if num_gpus is not None and num_gpus > trainer.world_size:
        yield f"--rollout-num-gpus {num_gpus}: with --colocate expected at most the trainer's {trainer.world_size} GPUs"
    if trainer.actor_num_gpus_per_node % of_each:
        yield (
            f"--rollout-num-gpus-per-engine {of_each}: with --colocate an engine has GPUs of one node's ranks; "
            f"expected a divisor of --actor-num-gpus-per-node {trainer.actor_num_gpus_per_node}"
        )


def _engines_alone_problems(engines: EnginePlacementConfig, trainer: TrainerPlacementConfig) -> Iterator[str]:
    """Without a trainer --colocate still says how many GPUs there are, unless --rollout-num-gpus does."""
    of_each = engines.rollout_num_gpus_per_engine
    if engines.colocate and engines.rollout_num_gpus is None and trainer.world_size % of_each:
        yield (
            f"--rollout-num-gpus-per-engine {of_each}: with --colocate the engines have the trainer's "
            f"{trainer.world_size} GPUs, expected a divisor; or give --rollout-num-gpus"
        )


def _external_problems(parsed: ParsedArguments) -> Iterator[str]:
    """What cannot be asked of engines that somebody else started."""
    if not parsed.get(EnginePlacementConfig).rollout_external_engine_addrs:
        return
    sync, flag = parsed.get(WeightSyncConfig), "--rollout-external-engine-addrs"
    if sync.update_weight_transport != "disk" or sync.update_weight_mode != "full":
        yield (
            f"{flag}: expected --update-weight-transport disk, in mode full: such engines load whole versions from "
            "--update-weight-disk-dir, which their machines have to share"
        )
    if sync.check_weight_update_equal:
        yield f"--check-weight-update-equal: with {flag} nobody tells what an engine holds"
    for name, given in parsed.given.items():
        if name.startswith(SGLANG_PREFIX) and not _is_said_for_other_engines(given, parsed.get(RunConfig)):
            yield f"{name}: with {flag} it belongs to the command that starts the server"


def _is_said_for_other_engines(given: Given, run: RunConfig) -> bool:
    """A preset says how engines are started where a run starts some, and so does a run's own configuration after it."""
    file = Path(given.origin.rpartition(":")[0]).absolute()
    own = run.run_dir.absolute() / CONFIG_FILE
    return bool(given.origin) and (file.is_relative_to(PRESETS) or (run.resume and file == own))
