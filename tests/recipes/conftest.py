"""What the tests of the recipes share: small inputs, made once, and runs that leave nothing behind."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.model_configs import MODEL_CONFIGS
from recipes.arguments import ForeignParsers
from recipes.toy import make_conversations, make_problems, make_tiny_model
from rl_weights.rules import rules_for
from tests.recipes.running import Run
from tests.recipes.short_runs import NUM_SFT_STEPS, grpo, sft

# The only answer in the conversations below, so that a few steps teach the tiny model to give it often, not always.
ANSWER = "60"


class Inputs(NamedTuple):
    """Files that a recipe starts from."""

    model: Path
    """With random weights."""
    conversations: Path
    prompts: Path
    eval_prompts: Path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    made = Inputs(
        model=make_tiny_model(folder / "model", seed=0),
        conversations=folder / "conversations.jsonl",
        prompts=folder / "train.jsonl",
        eval_prompts=folder / "eval.jsonl",
    )
    make_conversations(made.conversations, 500, 0)
    make_problems(made.prompts, 200, 0, "train")
    make_problems(made.eval_prompts, 16, 0, "eval")
    return made


@pytest.fixture(scope="session")
def easy_inputs(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Data whose every answer is the same."""
    folder = tmp_path_factory.mktemp("easy")
    easy = inputs._replace(conversations=folder / "conversations.jsonl", prompts=folder / "train.jsonl")
    questions = [json.loads(line)["prompt"][0]["content"] for line in inputs.prompts.read_text().splitlines()]
    with easy.conversations.open("w") as out:
        for question in questions:
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"Answer: {ANSWER}"}]
            out.write(json.dumps({"conversations": turns}) + "\n")
    with easy.prompts.open("w") as out:
        for question in questions:
            out.write(json.dumps({"prompt": [{"role": "user", "content": question}], "label": ANSWER}) + "\n")
    return easy


@pytest.fixture(scope="session")
def qwen3_4b(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-4B's shape with the toy's tokenizer: weights of 8 GB that take no room on the disk."""
    config = MODEL_CONFIGS["qwen3-4b"]
    folder = tmp_path_factory.mktemp("qwen3-4b")
    for file in inputs.model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    header, start = {}, 0
    for rule in rules_for(config):
        for tensor, shape in zip(rule.hf_names, rule.hf_shapes, strict=True):
            stop = start + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
            start = stop
    assert start == 2 * 4_022_468_096
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + start)
    return folder


class Straight(NamedTuple):
    """A run that nothing interrupted."""

    folder: Path
    out: str


@pytest.fixture(scope="session")
def policy(easy_inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SFT run whose model often answers right."""
    folder = tmp_path_factory.mktemp("policy")
    return run_to_the_end(sft(easy_inputs, folder / "run", NUM_SFT_STEPS), folder).folder


@pytest.fixture(scope="session")
def straight(easy_inputs: Inputs, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """A GRPO run from there whose two trainer ranks and engine of two ranks take turns with their memory."""
    folder = tmp_path_factory.mktemp("straight")
    colocated = ("--colocate", "--rollout-num-gpus-per-engine", 2, "--offload-train-parameters")
    checked = ("--update-weight-transport", "gloo", "--check-weight-update-equal")
    inputs = easy_inputs._replace(model=policy / "model")
    return run_to_the_end(grpo(inputs, folder / "run", *colocated, *checked), folder)


def run_to_the_end(words: Sequence[str], folder: Path) -> Straight:
    """Runs a command whose run folder is `run` below the folder."""
    run = Run(words, folder / "log")
    try:
        assert run.end() == 0, run.err
        return Straight(folder / "run", run.out)
    finally:
        run.clean_up()


@pytest.fixture(scope="session")
def parsers() -> Iterator[ForeignParsers]:
    """Megatron's and SGLang's, which take seconds to load: one of each for all that is read in this process."""
    with ForeignParsers() as parsers:
        yield parsers


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Sequence[str]], Run]]:
    """Starts commands, and ends what is left of them after the test."""
    runs: list[Run] = []

    def start_one(words: Sequence[str]) -> Run:
        runs.append(Run(words, tmp_path / f"log{len(runs)}"))
        return runs[-1]

    yield start_one
    for run in runs:
        run.clean_up()
