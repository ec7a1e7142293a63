"""Evaluation on held-out prompts during a GRPO run."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from recipes.config import EvalConfig
from recipes.errors import UsageError
from rl_data import DataError, GraderConfig, GraderPool, Prompt, PromptDataConfig, PromptSource, RowNote, Tokenizer
from rl_rollout import EnginePool, EvalReport, RolloutConfig, SamplingParams, evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """Held-out prompts under the name that their metrics carry."""

    name: str
    config: EvalConfig
    """Its own settings, see `EvalConfig.of_set`."""
    prompts: Sequence[Prompt]
    num_dropped_prompts: int
    """Rows that were left out because they are too long, or bad and to be skipped."""
    left_out: Sequence[RowNote] = ()
    """Rows that turned out to be too long, or bad, when they were rendered: left out or cut."""


def eval_data(config: EvalConfig, data: PromptDataConfig) -> dict[str, PromptDataConfig]:
    """How each evaluation set is read, by name. Settings that the evaluation does not give are those of training."""
    own = {name: config.of_set(name) for name in config.data_sets}
    return {
        name: replace(
            data,
            prompt_data=file,
            prompt_data_weights=(),
            input_key=own[name].eval_input_key or data.input_key,
            label_key=own[name].eval_label_key or data.label_key,
        )
        for name, file in config.data_sets.items()
    }


def open_eval_set(
    name: str, config: EvalConfig, data: PromptDataConfig, tokenizer: Tokenizer, *, bad_rows: Sequence[RowNote] = ()
) -> EvalSet:
    """An evaluation set with its own settings, read whole but for rows that are known to be bad.

    Raises:
        DataError: for a file that is missing or has a bad row.
        UsageError: for a file whose prompts are all too long.
    """
    source = PromptSource(data, tokenizer)
    source.leave_out(bad_rows)
    prompts = list(source.one_epoch())
    if not prompts:
        raise UsageError(
            f"--eval-prompt-data {name} {data.prompt_data}: every one of {len(source)} rows is longer than "
            f"{data.rollout_max_prompt_len} tokens{' or bad' if source.num_bad else ''}"
        )
    known = {note.row for note in bad_rows}
    return EvalSet(
        name=name,
        config=config,
        prompts=prompts,
        num_dropped_prompts=source.num_dropped + source.num_bad,
        left_out=[note for note in source.take_notes() if note.row not in known],
    )


def eval_sampling(config: EvalConfig, rollout: RolloutConfig) -> SamplingParams:
    """How evaluation samples are drawn: as in training where the evaluation does not say."""
    training = rollout.sampling
    return replace(
        training,
        temperature=training.temperature if config.eval_temperature is None else config.eval_temperature,
        top_p=training.top_p if config.eval_top_p is None else config.eval_top_p,
        top_k=training.top_k if config.eval_top_k is None else config.eval_top_k,
        max_new_tokens=config.eval_max_response_len or training.max_new_tokens,
    )


def eval_grading(config: EvalConfig, grading: GraderConfig) -> GraderConfig:
    """How evaluation samples are graded: as in training where the evaluation does not say.

    Raises:
        UsageError: if there is no such grader, or the penalty of `overlong` would begin before the first token.
    """
    if config.eval_rm_type is not None:
        try:
            grading = replace(grading, rm_type=config.eval_rm_type)
        except DataError as error:
            raise UsageError(str(error).replace("rm_type", "--eval-rm-type", 1)) from error
    buffer, longest = grading.overlong_buffer_len, config.eval_max_response_len
    if buffer is None or longest is None:  # nobody else looks at the longest response
        return grading
    if buffer <= longest:
        return replace(grading, rollout_max_response_len=longest)
    if any(term.name == "overlong" for term in grading.terms):
        raise UsageError(
            f"--overlong-buffer-len {buffer}: expected at most --eval-max-response-len {longest}; without the penalty "
            "in evaluation: --eval-rm-type"
        )
    return replace(grading, overlong_buffer_len=None)


@contextmanager
def naming_set(name: str) -> Generator[None]:
    """Puts the data set in front of what is wrong with its settings."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"--eval-prompt-data {name}: {error}") from error


@contextmanager
def open_eval_graders(
    config: EvalConfig, training: GraderPool, grading: GraderConfig
) -> Generator[Mapping[str, GraderPool]]:
    """By data set, the grader of the training samples, or another where the data set is graded otherwise."""
    own: dict[str, GraderConfig] = {}
    for name in config.data_sets:
        with naming_set(name):
            own[name] = eval_grading(config.of_set(name), grading)
    with ExitStack() as stack:
        pools: list[tuple[GraderConfig, GraderPool]] = [(grading, training)]
        for wanted in own.values():
            if all(wanted != known for known, _ in pools):
                pools.append((wanted, stack.enter_context(GraderPool(wanted))))
        yield {name: next(pool for known, pool in pools if known == wanted) for name, wanted in own.items()}


async def evaluate_set(eval_set: EvalSet, pool: EnginePool, grader: GraderPool, rollout: RolloutConfig) -> EvalReport:
    """Samples of every prompt of the set, graded."""
    return await evaluate(
        eval_set.prompts,
        pool,
        grader,
        eval_sampling(eval_set.config, rollout),
        num_samples=eval_set.config.n_samples_per_eval_prompt,
        seed=rollout.rollout_seed,
        timeout_s=rollout.generate_timeout_s,
    )
