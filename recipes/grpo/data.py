"""The data of a GRPO run: every row checked first, and then the prompts that fit."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from recipes.arguments.foreign import ForeignArguments
from recipes.arguments.parse import ParsedArguments
from recipes.config import BatchConfig, EvalConfig, RunConfig
from recipes.config.limits import token_budget
from recipes.errors import UsageError
from recipes.grpo.checks import without_effect
from recipes.grpo.evaluation import EvalSet, eval_data, naming_set, open_eval_graders, open_eval_set
from recipes.grpo.limits import engine_rooms, prompt_limit
from rl_data import DataError, GraderConfig, GraderPool, PromptDataConfig, PromptSource, RowNote, Tokenizer
from rl_rollout import RolloutConfig


class CheckedRows(NamedTuple):
    """What is known of the rows after each was checked."""

    num_good: int
    """For training; 0 where there is evaluation alone."""
    bad: Sequence[RowNote]
    """Those for training that will be skipped."""
    bad_held_out: Mapping[str, Sequence[RowNote]]
    """Those for evaluation that will be skipped, by data set."""
    notes: Sequence[str]
    """Settings without effect."""


def check_rows(parsed: ParsedArguments, tokenizer: Tokenizer) -> CheckedRows:
    """Checks every row, that it can be graded, and that every grader with a setting of its own is asked for.

    Such a setting is a note where nobody need be kept from starting: a run that goes on has had it from its start, and
    in an evaluation alone it may be for training.

    Raises:
        DataError: naming a row that is bad, unless bad rows are to be skipped.
        UsageError: naming a setting of a grader that neither a reward type nor a row asks for.
    """
    data, grading, evaluation = parsed.get(PromptDataConfig), parsed.get(GraderConfig), parsed.get(EvalConfig)
    num_good, bad = 0, list[RowNote]()
    with _naming_flag(), GraderPool(grading) as training, open_eval_graders(evaluation, training, grading) as held_out:
        if not evaluation.eval_only:
            source = PromptSource(data, tokenizer, check_label=training.check_label)
            bad = source.validate()
            num_good = len(source) - len(bad)
        bad_held_out = {
            name: PromptSource(rows, tokenizer, check_label=held_out[name].check_label).validate()
            for name, rows in eval_data(evaluation, data).items()
        }
        asked_for = training.asked_for.union(*(grader.asked_for for grader in held_out.values()))
    notes = without_effect(parsed, asked_for)
    if notes and not evaluation.eval_only and not parsed.get(RunConfig).resume:
        raise UsageError("\n".join(notes))
    return CheckedRows(num_good, bad, bad_held_out, notes)


@contextmanager
def _naming_flag() -> Generator[None]:
    """A function that cannot be imported is named by its flag, whoever asked for it: a reward type or a row."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("custom_rm_path", "--custom-rm-path", 1)) from error


def open_training(
    parsed: ParsedArguments,
    foreign: ForeignArguments,
    tokenizer: Tokenizer,
    rows: CheckedRows,
    server_rooms: Mapping[str, int],
) -> PromptSource:
    """The prompts that fit with the longest response, into an engine and into a micro-batch."""
    data, rollout = parsed.get(PromptDataConfig), parsed.get(RolloutConfig)
    budget = token_budget(parsed.get(BatchConfig), foreign.megatron)
    limit = prompt_limit(
        data.rollout_max_prompt_len,
        {"--max-tokens-per-gpu": budget, **engine_rooms(foreign.megatron, foreign.sglang), **server_rooms},
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
    return source


def open_eval_sets(
    parsed: ParsedArguments,
    foreign: ForeignArguments,
    tokenizer: Tokenizer,
    bad: Mapping[str, Sequence[RowNote]],
    server_rooms: Mapping[str, int],
) -> list[EvalSet]:
    """Of each data set, the prompts that fit into an engine with its longest response.

    Args:
        parsed: our settings.
        foreign: what limits an engine.
        tokenizer: of the model.
        bad: rows to skip, by data set.
        server_rooms: what limits an engine that was started elsewhere, see `check_servers`.
    """
    data, rollout, evaluation = parsed.get(PromptDataConfig), parsed.get(RolloutConfig), parsed.get(EvalConfig)
    opened: list[EvalSet] = []
    for name, held_out in eval_data(evaluation, data).items():
        own = evaluation.of_set(name)
        longest = own.eval_max_response_len
        with naming_set(name):
            limit = prompt_limit(
                data.rollout_max_prompt_len,
                {**engine_rooms(foreign.megatron, foreign.sglang), **server_rooms},
                response_flag="--rollout-max-response-len" if longest is None else "--eval-max-response-len",
                response=rollout.rollout_max_response_len if longest is None else longest,
            )
        held_out = replace(held_out, rollout_max_prompt_len=limit)
        opened.append(open_eval_set(name, own, held_out, tokenizer, bad_rows=bad[name]))
    return opened
