"""Settings of a grader that nothing asks for are refused, and failures of graders are shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recipes.arguments import UsageError
from recipes.grpo.checks import check_together
from recipes.grpo.config import parse, read_job
from recipes.grpo.data import check_rows
from recipes.grpo.record import failure_note, step_line
from recipes.tokenizer import open_tokenizer
from rl_data import DataError, FinishReason, Prompt
from rl_rollout.generate import unanswered


def words_of(inputs, folder, *words):
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.prompts, "--run-dir", folder / "run")
    return [*map(str, ("--preset", "tiny_math", *paths, *words))]


@pytest.mark.parametrize(
    ("words", "grader", "message"),
    [
        ("--custom-rm-path no.such.function", "custom", "--custom-rm-path no.such.function has no effect: --rm-type"),
        (
            "--rm-url http://localhost:9/",
            "remote",
            "--rm-url http://localhost:9/ has no effect: --rm-type deepscaler (",
        ),
        ("--overlong-buffer-len 4", "overlong", "--overlong-buffer-len 4 has no effect: --rm-type deepscaler ("),
    ],
)
def test_a_setting_of_a_grader_that_nothing_asks_for_is_refused(words, grader, message, inputs, tmp_path):
    with pytest.raises(UsageError) as error:
        read_job(words_of(inputs, tmp_path, *words.split()))
    assert str(error.value).startswith(message)
    assert str(error.value).endswith(
        f"tiny_math.yaml:9) does not ask for {grader}, nor does a row; give --rm-type {grader}, or a sum as "
        f"'deepscaler + {grader}'"
    )


@pytest.mark.parametrize("more", ["--resume", "--eval-only"])
def test_where_it_may_be_for_something_else_it_is_only_said(more, inputs, tmp_path):
    words = ("--custom-rm-path", "no.such.function", "--eval-prompt-data", "held-out", inputs.prompts, more)
    (note,) = check_rows(parse(words_of(inputs, tmp_path, *words)), open_tokenizer(inputs.model)).notes
    assert note.startswith("--custom-rm-path no.such.function has no effect: --rm-type deepscaler (")


@pytest.mark.parametrize("flags", ["--rm-type custom", "--eval-prompt-data x rows.jsonl --eval-rm-type custom"])
def test_a_function_that_cannot_be_called_is_named_by_its_flag_before_anything_starts(flags, inputs, tmp_path):
    words = [inputs.prompts if word == "rows.jsonl" else word for word in flags.split()]
    message = (
        r"^--custom-rm-path math\.floor: .*math\.floor\(x, /\): expected a function of \(response, label, metadata\)"
    )
    with pytest.raises(DataError, match=message):
        read_job(words_of(inputs, tmp_path, *words, "--custom-rm-path", "math.floor"))


@pytest.mark.parametrize(
    ("flag", "more"),
    [
        ("--prompt-data", {}),  # a row asks
        ("--eval-prompt-data held-out", {}),
        ("--eval-prompt-data held-out", {"--eval-rm-type": "format + remote"}),
        ("--eval-prompt-data held-out", {"--eval-settings": '{"held-out": {"eval-rm-type": "remote"}}'}),
        ("--prompt-data", {"--rm-type": "remote"}),
    ],
)
def test_a_grader_may_be_asked_for_by_a_row_or_in_evaluation_alone(flag, more, inputs, tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {"prompt": [{"role": "user", "content": "1 + 1"}], "label": "2"}
    file.write_text(json.dumps(row if more else {**row, "metadata": {"rm_type": "remote"}}) + "\n")
    words = [*flag.split(), file, "--rm-url", "http://localhost:9/", *(word for pair in more.items() for word in pair)]
    parsed = parse(words_of(inputs, tmp_path, *words))
    check_together(parsed)
    assert check_rows(parsed, open_tokenizer(inputs.model)).num_good > 0


def test_failed_samples_and_dropped_groups_are_shown_where_there_are_some():
    record = {"phase": "grpo", "step": 3, "reward_mean": 0.25, "num_failed_samples": 0.0, "num_dropped_groups": 0.0}
    assert step_line(record) == {"reward": 0.25}
    shown = step_line({**record, "num_failed_samples": 16.0, "num_dropped_groups": 2.0})
    assert shown == {"reward": 0.25, "failed": "16", "dropped": "2"}


def test_the_first_failed_sample_says_why():
    prompt = Prompt(row=0, epoch=0, tokens=np.array([1], np.int32), text="1")
    failed = [unanswered(prompt, 0, reason) for reason in ("grader: crash: KeyError: 'x'\nand more", "another")]
    good = replace(failed[0], finish_reason=FinishReason.STOP)
    assert failure_note([good]) == ""
    assert failure_note(failed[1:]) == "warning: 1 sample failed; the first: another"
    assert failure_note([good, *failed]) == "warning: 2 samples failed; the first: grader: crash: KeyError: 'x'"
