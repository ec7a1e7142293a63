"""--check reads and checks a run, says what it would start with, and leaves nothing behind."""

import pytest

from recipes.grpo.main import main as grpo
from recipes.sft.main import main as sft
from tests.recipes.short_runs import words_of

LAST = "Nothing was started or written; GPUs, memory and nodes were not looked at"


@pytest.mark.slow
def test_a_run_is_checked_and_nothing_is_written(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("recipes.grpo.config.check_host_memory", None)  # this machine's says nothing of another's
    held_out = ("--eval-prompt-data", "x", inputs.eval_prompts)
    for main, preset, words, said in (
        (sft, "tiny_sft", (), "checked; steps: 220, trainer ranks: 2. "),
        (grpo, "tiny_math", held_out, "checked; steps: 40, trainer ranks: 2, engines: 1. "),
        (grpo, "tiny_math", ("--eval-only", *held_out), "checked; evaluation sets: 1, engines: 1. "),
    ):
        assert main(words_of(preset, inputs, tmp_path, "--check", *words)) == 0
        out = capsys.readouterr().out
        assert out.startswith("# python -m recipes.")
        assert "check:" not in out
        assert out.splitlines()[-1] == said + LAST
    assert grpo(words_of("tiny_math", inputs, tmp_path, "--check", "--rollout-top-p", "0.5")) == 2
    assert "--rollout-top-p 0.5: expected 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
