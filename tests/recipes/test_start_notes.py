"""What a run says before it starts of settings that are allowed, and easily not what was meant."""

import pytest

from recipes.config import RunConfig
from recipes.grpo.config import read_job as read_grpo
from recipes.sft.config import read_job as read_sft
from tests.recipes.short_runs import words_of

NO_EVALUATION = "no evaluation: --eval-prompt-data is not given"


@pytest.mark.slow
def test_a_divergence_in_the_loss_whose_gradient_averages_to_0_is_said(inputs, parsers, tmp_path):
    in_loss = ("--use-kl-loss", "--kl-loss-coef", 0.1)
    said = "--kl-loss-type k1: its gradient averages to 0; low_var_kl pulls towards the reference"
    for words, notes in (
        (in_loss, [said, NO_EVALUATION]),
        (("--use-kl-loss",), [NO_EVALUATION]),
        ((*in_loss, "--use-unbiased-kl"), [NO_EVALUATION]),
        ((*in_loss, "--kl-loss-type", "k2", "--eval-prompt-data", "x", inputs.eval_prompts), []),
    ):
        assert read_grpo(words_of("tiny_math", inputs, tmp_path, *words), parsers).notes == notes


def test_rows_that_are_too_few_for_another_step_are_said(inputs, tmp_path):
    def said(num_rows: int, *, num_epoch: int | None, num_rollout: int | None = None) -> str | None:
        run = RunConfig(run_dir=tmp_path, hf_checkpoint=inputs.model, num_epoch=num_epoch, num_rollout=num_rollout)
        return run.left_over_note(num_rows=num_rows, rows_per_step=8)

    assert said(60, num_epoch=1) == "--num-epoch 1: the last 4 of 60 rows are too few for another step of 8"
    assert said(57, num_epoch=1) == "--num-epoch 1: the last of 57 rows is too few for another step of 8"
    assert said(15, num_epoch=3, num_rollout=9) == (
        "--num-epoch 3: the last 5 of 45 rows are too few for another step of 8"
    )
    assert said(60, num_epoch=2) is None
    assert said(60, num_epoch=1, num_rollout=7) is None
    assert said(60, num_epoch=None, num_rollout=7) is None


@pytest.mark.slow
def test_both_recipes_say_what_an_epoch_leaves(inputs, parsers, tmp_path):
    sizes = ("--global-batch-size", 64, "--num-rollout", 999, "--num-epoch")
    found = read_sft(words_of("tiny_sft", inputs, tmp_path, *sizes, 1), parsers).notes
    assert found == ["--num-epoch 1: the last 52 of 500 rows are too few for another step of 64"]
    found = read_grpo(words_of("tiny_math", inputs, tmp_path, *sizes, 1), parsers).notes
    assert found == ["--num-epoch 1: the last 8 of 200 rows are too few for another step of 16", NO_EVALUATION]
