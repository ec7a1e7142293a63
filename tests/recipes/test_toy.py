"""The tiny model and its data: the same for a seed, split cleanly, loadable by the libraries that use them."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.errors import UsageError
from recipes.toy import make_conversations, make_problems, make_tiny_model
from recipes.toy.arithmetic import problem_pool

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get("RL_SHARED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("toy") / "model", seed=0)


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    return AutoTokenizer.from_pretrained(model_folder)


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def questions(path):
    return [json.loads(line)["prompt"][0]["content"] for line in path.read_text().splitlines()]


def sums_in(texts):
    """The `left + right` of each question."""
    return {text.rstrip("?.").split(" is ")[-1].removeprefix("Compute ") for text in texts}


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_weights(model_folder, tmp_path):
    again = checksums(make_tiny_model(tmp_path / "again", seed=0))
    other = checksums(make_tiny_model(tmp_path / "other", seed=1))
    assert again == checksums(model_folder)
    assert other["model.safetensors"] != again["model.safetensors"]


def test_making_a_model_leaves_the_callers_random_state_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_tiny_model(tmp_path / "model", seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_model_is_a_qwen3_with_grouped_query_attention_and_tied_embeddings(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    config = model.config
    assert (config.model_type, config.num_attention_heads, config.num_key_value_heads) == ("qwen3", 4, 2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert hasattr(model.model.layers[0].self_attn, "q_norm")


def test_model_generates_until_an_end_token_that_its_configuration_names(model_folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 17 + 52?"}], add_generation_prompt=True, return_tensors="pt"
    )
    prompt_length = inputs["input_ids"].shape[1]
    assert prompt_length < model.generate(**inputs, max_new_tokens=4, do_sample=False).shape[1] <= prompt_length + 4


def test_every_digit_is_a_token_of_its_own(tokenizer):
    tokens = [tokenizer.decode([token]) for token in tokenizer.encode("17 + 52 = 69\nAnswer: 69")]
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("17526969")
    assert len(tokenizer) == 512


@pytest.mark.parametrize(
    "text",
    [
        "Natalia sold 48/2 = 24 clips in May.",
        "caf\u00e9 \u4e2d\u6587 \U0001f600 \x00\t \r\n  two  spaces ",
        "</script><img src=x onerror=alert(1)>",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_word_problems_take_less_than_half_a_token_a_character(tokenizer):
    file = SHARED_DATA / "gsm8k_train_dapo.jsonl"
    if not file.exists():
        pytest.skip(f"no {file}; set RL_SHARED_DATA to the folder that holds it")
    with file.open() as lines:
        texts = [json.loads(line)["prompt"][0]["content"] for line, _ in zip(lines, range(100), strict=False)]
    num_tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert num_tokens < 0.5 * sum(map(len, texts))


def test_chat_template_frames_turns_as_qwen3_does(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="new or empty folder"):
        make_tiny_model(tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_evaluation_problems_occur_in_no_training_file_whatever_the_seeds(tmp_path):
    held_out = make_problems(tmp_path / "eval.jsonl", 100, seed=0, split="eval")
    training = make_problems(tmp_path / "train.jsonl", len(problem_pool("train")), seed=1, split="train")
    conversations = make_conversations(tmp_path / "conversations.jsonl", 5000, seed=2)
    asked = [json.loads(line)["conversations"][0]["value"] for line in conversations.read_text().splitlines()]
    held_out_sums = sums_in(questions(held_out))
    assert len(held_out_sums) == 100
    assert not held_out_sums & sums_in(questions(training))
    assert not held_out_sums & sums_in(asked)


def test_labels_are_the_right_answers_as_text(tmp_path):
    path = make_problems(tmp_path / "train.jsonl", 200, seed=0, split="train")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        left, right = (int(number) for number in next(iter(sums_in([row["prompt"][0]["content"]]))).split(" + "))
        assert row["label"] == str(left + right)
    assert len(sums_in(questions(path))) == len(rows) == 200


def test_conversations_are_right_and_only_some_end_in_the_graded_format(tmp_path):
    path = make_conversations(tmp_path / "conversations.jsonl", 2000, seed=0)
    rows = [json.loads(line)["conversations"] for line in path.read_text().splitlines()]
    for row in rows:
        assert [turn["from"] for turn in row] == ["human", "gpt"]
        left, right = (int(number) for number in next(iter(sums_in([row[0]["value"]]))).split(" + "))
        assert str(left + right) in row[1]["value"]
    graded_share = sum("\nAnswer: " in row[1]["value"] for row in rows) / len(rows)
    assert 0.2 < graded_share < 0.6


def test_data_of_equal_seeds_are_equal(tmp_path):
    files = [make_conversations(tmp_path / f"{number}.jsonl", 50, seed=seed) for number, seed in enumerate((3, 3, 4))]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_asking_for_more_problems_than_there_are_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"at most \d+ eval problems, got 100000"):
        make_problems(tmp_path / "eval.jsonl", 100_000, seed=0, split="eval")


def test_command_makes_model_and_data_and_refuses_a_folder_that_holds_something(tmp_path):
    command = [sys.executable, "-m", "recipes.toy", "--out", tmp_path / "toy", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {"model", "conversations.jsonl", "train.jsonl", "eval.jsonl"}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "expected a new or empty folder, found files" in again.stderr
