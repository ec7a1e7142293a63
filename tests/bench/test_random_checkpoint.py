import json
import math
import subprocess
import sys

import pytest
import torch

from bench.filler_tokenizer import ANSWERS
from bench.model_configs import MODEL_CONFIGS, model_config
from bench.random_checkpoint import make_checkpoint
from rl_data import GraderPool, load_tokenizer
from rl_weights import HFCheckpoint, diff_checkpoints, inspect_checkpoint
from rl_weights.rules import rules_for

TINY = MODEL_CONFIGS["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "model"
    make_checkpoint(folder, TINY, dtype="float32")
    return folder


def test_qwen3_4b_has_the_published_number_of_parameters():
    shapes = [shape for rule in rules_for(MODEL_CONFIGS["qwen3-4b"]) for shape in rule.hf_shapes]
    assert sum(math.prod(shape) for shape in shapes) == 4_022_468_096


def test_transformers_loads_every_tensor(folder):
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert model(torch.tensor([[3, 767]])).logits.shape == (1, 2, TINY["vocab_size"])


def test_rl_weights_inspects_the_folder(folder):
    assert inspect_checkpoint(folder).num_parameters == sum(
        math.prod(shape) for _, _, shape in HFCheckpoint(folder).specs.values()
    )


def test_equal_seeds_give_equal_bytes_and_others_do_not(folder, tmp_path):
    make_checkpoint(tmp_path / "same", TINY, dtype="float32")
    make_checkpoint(tmp_path / "other", TINY, dtype="float32", seed=1)
    assert diff_checkpoints(folder, tmp_path / "same").is_equal
    assert not diff_checkpoints(folder, tmp_path / "other").is_equal


def test_weights_have_the_wanted_spread_and_norms_are_one(tmp_path):
    make_checkpoint(tmp_path / "model", TINY, std=0.05)
    checkpoint = HFCheckpoint(tmp_path / "model")
    embedding = checkpoint.read("model.embed_tokens.weight")
    assert embedding.dtype == torch.bfloat16
    # 49,152 draws: the deviation of their standard deviation is 0.3 % of it.
    assert embedding.float().std().item() == pytest.approx(0.05, rel=0.02)
    assert checkpoint.read("model.norm.weight").unique().tolist() == [1.0]


def test_the_tokenizer_decodes_every_id_and_encodes_text_to_none_of_the_fillers(folder):
    tokenizer = load_tokenizer(folder, needs_chat_template=True)
    texts = [tokenizer.decode([token_id]) for token_id in range(512, TINY["vocab_size"])]
    assert len(set(texts)) == len(texts)
    assert all(texts)
    assert max(tokenizer.encode("What is <600>?\nAnswer: 1\n")) < 512


def test_random_responses_are_graded_differently(folder):
    tokenizer = load_tokenizer(folder)
    responses = [tokenizer.decode([513, token_id, 514]) for token_id in range(512, 768, 8)]
    with GraderPool("deepscaler") as graders:
        for label in ANSWERS:
            values = [graders.grade_now(response, label=label).value for response in responses]
            assert sum(values) == len(responses) / 2


def test_the_command_refuses_a_folder_that_holds_something(folder):
    command = [sys.executable, "-m", "bench.random_checkpoint", "--config", "tiny", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected a new or empty folder" in done.stderr


def test_a_configuration_can_be_a_file(folder):
    assert model_config(str(folder / "config.json")) == json.loads((folder / "config.json").read_text())


def test_an_unknown_configuration_is_refused():
    with pytest.raises(ValueError, match=r"--config none: expected one of \['qwen3-4b', 'tiny'\], or a config"):
        model_config("none")
