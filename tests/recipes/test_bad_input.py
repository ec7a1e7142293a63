"""What a user gets wrong: one clear message before any actor starts, and nothing on the disk has changed."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recipes.arguments.usage import is_usage_error
from recipes.grpo.config import parse
from recipes.grpo.config import read_job as read_grpo
from recipes.grpo.eval_only import eval_job_of
from recipes.sft.config import read_job as read_sft
from rl_train.megatron.checkpoint_folder import TRACKER
from tests.recipes.running import ROOT, recipe

GOOD_ROW = json.dumps({"prompt": [{"role": "user", "content": "What is 2 + 2?"}], "label": "4"})


def row(**fields):
    return GOOD_ROW + "\n" + json.dumps(fields) + "\n"


def grpo_words(inputs, folder, *words):
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.prompts, "--run-dir", folder / "run")
    return [*map(str, ("--preset", "tiny_math", *paths, *words))]


def sft_words(inputs, folder, *words):
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.conversations, "--run-dir", folder / "run")
    return [*map(str, ("--preset", "tiny_sft", *paths, *words))]


def read_eval(words, parsers=None):
    return eval_job_of(parse(words), parsers)


def refusal(read_job, words, folder, parsers=None):
    """The message of a refused command line, which must leave the folder as it was."""
    before = contents(folder)
    with pytest.raises(ValueError) as refused:
        read_job(words, parsers)
    assert is_usage_error(refused.value), refused.value
    assert contents(folder) == before
    return str(refused.value)


def contents(folder: Path):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{file}: expected a file, a folder or a pattern, found nothing"),
        ("", "{file}: expected at least one row, found an empty file"),
        (row(question="x", label="4"), "{file}:2: expected key 'prompt', found keys ['label', 'question']"),
        (row(prompt="x", answer="4"), "{file}:2: expected key 'label', found keys ['answer', 'prompt']"),
        (row(prompt="x", label=4), "{file}:2: key 'label': label must be text, got int 4"),
        (row(prompt="x", label=None), "{file}:2: key 'label': label must be text, got null"),
        (row(prompt=[], label="4"), "{file}:2: key 'prompt': expected a list of messages, found an empty list"),
        (GOOD_ROW + '\n{"prompt": \n', "{file}:2: not valid JSON: "),
        (GOOD_ROW + "\n[1, 2]\n", "{file}:2: expected a JSON object, found list"),
    ],
    ids=["missing", "empty", "no-prompt", "no-label", "number", "null", "no-message", "cut", "list"],
)
@pytest.mark.parametrize("flag", ["--prompt-data", "--eval-prompt-data held-out"])
def test_a_bad_prompt_file_is_named_with_line_and_key(inputs, tmp_path, content, message, flag):
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_text(content)
    said = refusal(read_grpo, grpo_words(inputs, tmp_path, *flag.split(), file), tmp_path)
    assert said.startswith(message.format(file=file))


def test_a_bad_conversation_is_named_with_line_and_key(inputs, tmp_path):
    file = tmp_path / "conversations.jsonl"
    words = sft_words(inputs, tmp_path, "--prompt-data", file)
    for line, message in (
        (GOOD_ROW, "expected key 'messages', found keys ['label', 'prompt']"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "key 'messages', message 0: expected a role of "),
        ('{"messages": [{"role": "user", "content": "x"}]}', "key 'messages': expected a message of the assistant"),
    ):
        file.write_text(line + "\n")
        assert refusal(read_sft, words, tmp_path).startswith(f"{file}:1: {message}")


@pytest.mark.slow
def test_data_of_which_everything_is_too_long_is_refused(inputs, parsers, tmp_path):
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "1 + " * 3000, "label": "4"}) + "\n")
    for words, message in (
        (["--prompt-data", long], f"{long}: every one of 1 rows is longer than wanted"),
        (["--eval-prompt-data", "x", long], f"--eval-prompt-data x {long}: every one of 1 rows is longer than 4072"),
        (["--max-tokens-per-gpu", 20], "--max-tokens-per-gpu 20: no room for a prompt beside a response"),
    ):
        assert refusal(read_grpo, grpo_words(inputs, tmp_path, *words), tmp_path, parsers).startswith(message)
    words = sft_words(inputs, tmp_path, "--max-tokens-per-gpu", 4)
    message = refusal(read_sft, words, tmp_path, parsers)
    assert message.startswith(f"{inputs.conversations}: every one of 500 rows is longer than wanted; the last: ")
    assert message.endswith(" tokens, at most 4 are wanted")


def copied_model(inputs, folder, changes, left_out=()):
    """The tiny model with some of its config.json changed and some files left out."""
    model = folder / "model"
    shutil.copytree(inputs.model, model, ignore=shutil.ignore_patterns(*left_out))
    if changes:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **changes}))
    return model


@pytest.mark.parametrize(
    ("changes", "left_out", "message"),
    [
        ({}, ["config.json"], "--hf-checkpoint {model}: expected a config.json in it, there is none"),
        (
            {},
            ["*.safetensors"],
            "--hf-checkpoint: {model}: neither model.safetensors nor model.safetensors.index",
        ),
        ({}, ["tokenizer*"], "{model}: expected tokenizer.json or tokenizer_config.json, found "),
        (
            {"architectures": ["LlamaForCausalLM"]},
            [],
            "config.json of {model}: expected an architecture among Qwen3ForCausalLM, got LlamaForCausalLM",
        ),
        ({"hidden_size": "wide"}, [], "config.json: hidden_size: expected a positive integer, got 'wide'"),
        (
            {"num_hidden_layers": 5},
            [],
            "--hf-checkpoint {model}: no tensor model.layers.4.input_layernorm.weight among its ",
        ),
        (
            {"intermediate_size": 77},
            [],
            "--hf-checkpoint {model}: model.layers.0.mlp.gate_proj.weight: by config.json expected shape [77, ",
        ),
    ],
    ids=["no-config", "no-weights", "no-tokenizer", "llama", "text", "more-layers", "other-shape"],
)
def test_a_model_folder_that_cannot_be_used_is_refused(inputs, tmp_path, changes, left_out, message):
    model = copied_model(inputs, tmp_path, changes, left_out)
    said = refusal(read_grpo, grpo_words(inputs, tmp_path, "--hf-checkpoint", model), tmp_path)
    assert said.startswith(message.format(model=model))


@pytest.mark.parametrize("flag", ["--load", "--ref-load"])
def test_first_weights_and_those_of_the_reference_are_the_models_too(inputs, tmp_path, flag):
    other = copied_model(inputs, tmp_path, {}, ["*.safetensors"])
    words = ["--eval-only", "--eval-prompt-data", "held-out", inputs.eval_prompts]
    reading = [(read_grpo, grpo_words(inputs, tmp_path, flag, other, "--use-kl-loss"))]
    if flag == "--load":
        reading += [(read_sft, sft_words(inputs, tmp_path, flag, other))]
        reading += [(read_eval, grpo_words(inputs, tmp_path, flag, other, *words))]
    for read_job, asked in reading:
        said = refusal(read_job, asked, tmp_path)
        assert said.startswith(f"{flag}: {other}: neither model.safetensors nor model.safetensors.index.json is there")
    (other / TRACKER).write_text("7")
    said = refusal(read_grpo, reading[0][1], tmp_path)
    assert said == f"{flag}: {other / TRACKER} names iter_0000007, which is not in {other}"
    (other / TRACKER).unlink()
    save_file({"model.embed_tokens.weight": np.zeros((2, 3), np.float32)}, other / "model.safetensors")
    for read_job, asked in reading:
        said = refusal(read_job, asked, tmp_path)
        assert said.startswith(f"{flag} {other}: model.embed_tokens.weight: by config.json expected shape [")
        assert said.endswith("], got [2, 3]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rollout-batchsize", 3], "--rollout-batchsize: there is no such flag; the nearest is --rollout-batch-size"),
        (["--preset", "tiny_mat"], "--preset tiny_mat: there is no such preset; the nearest: tiny_math, tiny_sft"),
        (["--global-batch-size", 100], "--global-batch-size 100: it does not divide the 128 samples of a rollout"),
        (["--eval-prompt-data", "x"], "--eval-prompt-data x: expected pairs NAME FILE"),
        (["--resume"], "--resume: {folder}/run holds no run to resume"),
        (["--run-dir", "{folder}/file"], "--run-dir {folder}/file: expected a folder, found a file"),
        (["--run-dir", "{folder}/file/run"], "--run-dir {folder}/file/run: {folder}/file is a file"),
        (["--run-dir", "/proc/run"], "--run-dir /proc/run: cannot write in /proc: "),
        (["--save", "/proc/checkpoints"], "--save /proc/checkpoints: cannot write in /proc: "),
        (["--run-dir", "{folder}"], "--run-dir {folder}: it holds other files; give --resume"),
        (["--config", "{folder}/flags.yaml"], "{folder}/flags.yaml:3: --lrr: there is no such flag"),
        (["--config", "{folder}/number.yaml"], "{folder}/number.yaml:2: --rollout-temperature hot: expected a number"),
        (["--config", "{folder}/broken.yaml"], "{folder}/broken.yaml:2: not valid YAML: "),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_flag_that_makes_no_sense_is_named(inputs, tmp_path, words, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "flags.yaml").write_text("# ours\nclip-grad: 1.0\nlrr: 1e-3\n")
    (tmp_path / "number.yaml").write_text("lr: 1e-3\nrollout-temperature: hot\n")
    (tmp_path / "broken.yaml").write_text("lr: 1e-3\nsave: ]\n")
    chosen = [str(word).format(folder=tmp_path) for word in words]
    said = refusal(read_grpo, grpo_words(inputs, tmp_path, *chosen), tmp_path)
    assert message.format(folder=tmp_path) in said


@pytest.mark.slow
def test_the_ranks_must_share_a_step_evenly(inputs, parsers, tmp_path):
    words = sft_words(inputs, tmp_path, "--global-batch-size", 63)
    said = refusal(read_sft, words, tmp_path, parsers)
    assert said == "--global-batch-size 63: it does not divide over 2 data-parallel ranks"


@pytest.mark.slow
def test_a_value_that_megatrons_parser_refuses_is_named(inputs, parsers, tmp_path):
    words = sft_words(inputs, tmp_path, "--lr", "fast")
    assert refusal(read_sft, words, tmp_path, parsers) == "--lr: invalid float value: 'fast'"


@pytest.mark.slow
def test_only_one_of_two_flags_decides_what_is_computed_again(inputs, parsers, tmp_path):
    words = sft_words(inputs, tmp_path, "--recompute-policy", "none", "--recompute-granularity", "selective")
    said = refusal(read_sft, words, tmp_path, parsers)
    assert said == "--recompute-policy none: expected auto beside --recompute-granularity selective, which decides"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("sft", ["--num-layers", "3"], "--num-layers 3: config.json of {model} says num_hidden_layers 4"),
        ("grpo", ["--rollout-batchsize", "3"], "--rollout-batchsize: there is no such flag; the nearest is "),
    ],
    ids=["contradiction", "unknown"],
)
def test_the_command_says_so_on_stderr_and_exits_with_2(inputs, tmp_path, name, words, message):
    data = inputs.prompts if name == "grpo" else inputs.conversations
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", data, "--run-dir", tmp_path / "run")
    done = subprocess.run(recipe(name, *paths, *words), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m recipes.{name}: ")
    assert message.format(model=inputs.model) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
