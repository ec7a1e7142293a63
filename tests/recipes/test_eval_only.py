"""An evaluation without training: engines alone, on what a run would start from."""

import json

import pytest

from recipes.errors import UsageError
from recipes.grpo.checks import check_held_out
from recipes.grpo.config import parse
from recipes.grpo.eval_only import eval_job_of
from tests.recipes.running import recipe
from tests.recipes.short_runs import records


@pytest.mark.slow
def test_a_checkpoint_evaluated_alone_gives_what_its_run_found(start, easy_inputs, policy, straight, tmp_path):
    own = {"short": {"n-samples-per-eval-prompt": 4, "eval-max-response-len": 2}}
    words = (
        "--hf-checkpoint",
        policy / "model",
        "--load",
        straight.folder / "checkpoints",
        "--run-dir",
        tmp_path / "run",
    )
    held_out = ("--eval-prompt-data", "held-out", easy_inputs.eval_prompts, "short", easy_inputs.eval_prompts)
    run = start(recipe("grpo", "--eval-only", *words, *held_out, "--eval-settings", json.dumps(own)))
    assert run.end() == 0, run.err
    assert run.left_after(5) == []

    found, short = records(tmp_path / "run")
    expected = records(straight.folder)[-1]
    assert {**found, "step": 0} == {**expected, "step": 0}
    assert short["data_set"] == "short"
    assert [name for name in short if name.startswith("pass_at_")] == ["pass_at_1", "pass_at_2", "pass_at_4"]
    assert short["pass_at_1"] == short["accuracy"] <= short["pass_at_2"] <= short["pass_at_4"]
    assert short["truncated_share"] == 1.0
    assert short["response_length_mean"] == 2.0
    samples = records(tmp_path / "run", "samples.jsonl")
    assert len(samples) == found["num_prompts"] + 4 * short["num_prompts"]


def test_it_needs_no_data_for_training_and_refuses_what_makes_no_sense(inputs, tmp_path):
    words = ["--preset", "tiny_math", "--eval-only", "--hf-checkpoint", str(inputs.model), "--run-dir", str(tmp_path)]
    words += ["--eval-prompt-data", "held-out", str(inputs.eval_prompts)]
    assert parse(words).given["--prompt-data"].values == ("none",)
    assert parse([*words, "--prompt-data", "x"]).given["--prompt-data"].values == ("x",)
    with pytest.raises(UsageError, match="--eval-only: there is nothing to go on with, so --resume has no effect"):
        eval_job_of(parse([*words, "--resume"]))
    with pytest.raises(UsageError, match="--eval-only: only what --skip-eval-before-train leaves out is done"):
        parse([*words, "--skip-eval-before-train"])
    with pytest.raises(UsageError, match="--prompt-data is missing"):
        parse([word for word in words if word != "--eval-only"])


@pytest.mark.parametrize(("num_gpus", "of_each"), [(1, 2), (8, 3)])
def test_engines_take_all_of_the_gpus_that_a_preset_shares_with_the_trainer(num_gpus, of_each, inputs, tmp_path):
    words = ["--preset", "tiny_math", "--eval-only", "--hf-checkpoint", str(inputs.model), "--run-dir", str(tmp_path)]
    words += ["--eval-prompt-data", "held-out", str(inputs.eval_prompts), "--colocate"]
    words += ["--actor-num-gpus-per-node", str(num_gpus), "--rollout-num-gpus-per-engine", str(of_each)]
    with pytest.raises(UsageError, match=f"--rollout-num-gpus-per-engine {of_each}: .* {num_gpus} GPUs, expected a"):
        eval_job_of(parse(words))
    check_held_out(parse([*words, "--rollout-num-gpus", "6"]))


def test_what_a_data_set_is_graded_by_decides_whether_it_needs_labels(inputs, tmp_path):
    words = ["--eval-only", "--hf-checkpoint", str(inputs.model), "--run-dir", str(tmp_path), "--input-key", "prompt"]
    words += ["--rollout-max-response-len", "8", "--n-samples-per-prompt", "2", "--rm-type", "math"]
    words += ["--eval-prompt-data", "a", "a.jsonl", "b", "b.jsonl"]

    def check(**own):
        settings = {name: {flag.replace("_", "-"): value} for name, (flag, value) in own.items()}
        check_held_out(parse([*words, "--eval-settings", json.dumps(settings)]))

    check(a=("eval_rm_type", "format"), b=("eval_label_key", "answer"))
    with pytest.raises(UsageError, match=r"^--eval-prompt-data a: --eval-label-key, .* is missing: --rm-type math"):
        check(b=("eval_label_key", "answer"))
    with pytest.raises(UsageError, match=r"^--eval-prompt-data b: .* is missing: --eval-rm-type dapo compares"):
        check(a=("eval_label_key", "answer"), b=("eval_rm_type", "dapo"))
    with pytest.raises(UsageError, match=r"^--eval-prompt-data b: --eval-rm-type: expected one of .*, got 'other'"):
        check(a=("eval_label_key", "answer"), b=("eval_rm_type", "other"))
