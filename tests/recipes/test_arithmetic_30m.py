"""The model of 30 million parameters, its chains of operations, and the presets that train it."""

import json
import random
import re

import pytest
import torch
from safetensors import safe_open

from bench.arithmetic_30m import commands
from recipes.grpo.config import read_job as read_grpo
from recipes.sft.config import read_job as read_sft
from recipes.toy import make_conversations, make_model, make_problems
from recipes.toy.chains import draw_answer, draw_chain

CHAIN = re.compile(r"\d\d(?: [+-] 1?\d){3,5}")
STEP = re.compile(r"(-?\d+ [+-] \d+) = (-?\d+)")


def value_of(text):
    """Of terms with + and - between them."""
    return sum(int(term) for term in text.replace("- ", "-").replace("+ ", "").split())


def chains_in(path):
    """The chain that each line asks for."""
    return [CHAIN.search(line).group() for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A small share of what `python -m recipes.toy --model-size 30m --task chains` makes."""
    folder = tmp_path_factory.mktemp("arithmetic") / "work"
    make_model(folder / "data" / "model", seed=0, size="30m")
    make_conversations(folder / "data" / "conversations.jsonl", 600, 0, "chains")
    make_problems(folder / "data" / "train.jsonl", 500, 0, "train", "chains")
    make_problems(folder / "data" / "eval.jsonl", 100, 0, "eval", "chains")
    return folder


def test_the_model_has_30_million_parameters_in_bf16_and_heads_as_large_as_every_qwen3(work):
    config = json.loads((work / "data" / "model" / "config.json").read_text())
    assert (config["model_type"], config["head_dim"], config["dtype"]) == ("qwen3", 128, "bfloat16")
    with safe_open(work / "data" / "model" / "model.safetensors", "pt") as tensors:
        found = [tensors.get_tensor(name) for name in tensors.offset_keys()]
    assert {tensor.dtype for tensor in found} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in found) == 30_157_312


def test_held_out_chains_are_asked_nowhere_else_whatever_the_seeds(work, tmp_path):
    held_out = set(chains_in(work / "data" / "eval.jsonl"))
    training = chains_in(make_problems(tmp_path / "train.jsonl", 5000, 1, "train", "chains"))
    asked = chains_in(make_conversations(tmp_path / "conversations.jsonl", 5000, 2, "chains"))
    assert len(held_out) == 100
    assert len(set(training)) == 5000
    assert not held_out & {*training, *asked}


def test_labels_are_what_the_chains_come_to_and_every_result_on_the_way_has_two_digits(work):
    for line in (work / "data" / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        chain = CHAIN.search(row["prompt"][0]["content"]).group()
        assert row["label"] == str(value_of(chain))
        words = chain.split()
        totals = [value_of(" ".join(words[: 1 + 2 * step])) for step in range(len(words) // 2 + 1)]
        assert all(10 <= total <= 99 for total in totals)


def test_an_answer_goes_through_the_chain_and_on_from_a_step_that_slipped():
    random_state = random.Random(0)
    for _ in range(200):
        chain = draw_chain(random_state, "train")
        *lines, ending = draw_answer(chain, random_state).splitlines()
        total = str(chain.first)
        for line, (sign, number) in zip(lines, chain.operations, strict=True):
            task, result = STEP.fullmatch(line).groups()
            assert task == f"{total} {sign} {number}"
            total = result
        assert ending.rstrip(".").endswith(f" {total}")


def test_less_than_a_quarter_of_the_answers_are_right_where_the_grader_looks():
    random_state = random.Random(0)
    chains = [draw_chain(random_state, "train") for _ in range(4000)]
    answers = [draw_answer(chain, random_state) for chain in chains]
    right = [answer.endswith(f"\nAnswer: {chain.result}") for chain, answer in zip(chains, answers, strict=True)]
    steps = [value_of(task) == int(result) for answer in answers for task, result in STEP.findall(answer)]
    assert 0.2 < sum(right) / len(right) < 0.25
    assert 0.89 < sum(steps) / len(steps) < 0.93
    assert sum("\nAnswer: " in answer for answer in answers) < sum("\nSo " in answer for answer in answers)


@pytest.mark.slow
def test_the_presets_resolve_to_one_gpu_that_trainer_and_engine_share_and_every_answer_fits(work, parsers):
    words = commands(work, seed=0)
    sft = read_sft(words["sft"], parsers)
    (work / "sft").mkdir()
    (work / "sft" / "model").symlink_to(work / "data" / "model")  # where SFT leaves it
    grpo = read_grpo(words["grpo"], parsers)
    for job in (sft, grpo):
        assert job.trainer_placement.world_size == 1
        assert job.megatron.values["bf16"] is True
        assert (job.megatron.values["num_layers"], job.megatron.values["kv_channels"]) == (8, 128)
    assert grpo.engine_placement.releases_engines
    assert not grpo.engine_placement.moves_optimizer
    assert grpo.num_steps_per_rollout == 1
    assert (grpo.rollout.rollout_temperature, grpo.evaluation.eval_interval) == (1.0, 10)
    assert len(grpo.eval_sets[0].prompts) == 100
    lengths = [sample.loss_mask.sum() for sample in sft.source.next_batch(600)]
    assert max(lengths) < grpo.rollout.rollout_max_response_len
