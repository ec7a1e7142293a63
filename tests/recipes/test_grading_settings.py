"""Settings of a grader that nothing asks for are refused, and failures of graders are shown."""

import json

import pytest

from recipes.arguments import UsageError
from recipes.grpo.checks import check_together
from recipes.grpo.config import parse, read_job
from recipes.grpo.data import check_rows
from recipes.tokenizer import open_tokenizer


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
