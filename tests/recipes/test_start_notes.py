"""What a run says before it starts of settings that are allowed, and easily not what was meant."""

import pytest

from recipes.grpo.config import read_job as read_grpo
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
