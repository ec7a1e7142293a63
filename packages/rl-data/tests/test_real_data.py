"""Rows of real data sets; skipped where their folder is not there."""

import asyncio
import json
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from rl_data import (
    ConversationDataConfig,
    ConversationSource,
    GraderConfig,
    GraderPool,
    PromptDataConfig,
    PromptSource,
    Tokenizer,
    pack,
)


@pytest.mark.parametrize(
    ("name", "num_rows"), [("gsm8k_train_dapo", 7473), ("gsm8k_test_dapo", 660), ("aime_2024", 30)]
)
def test_every_prompt_is_valid_and_renders(shared_data: Path, tokenizer: Tokenizer, name: str, num_rows: int):
    config = PromptDataConfig(
        prompt_data=str(shared_data / f"{name}.jsonl"),
        input_key="prompt",
        label_key="label",
        apply_chat_template=True,
        rollout_shuffle=True,
    )
    source = PromptSource(config, tokenizer)
    assert len(source) == num_rows
    source.validate()
    prompts = source.next_batch(30)
    assert len({prompt.row for prompt in prompts}) == 30
    for prompt in prompts:
        assert prompt.text.endswith('on its own line after "Answer:".<|im_end|>\n<|im_start|>assistant\n')
        assert tokenizer.decode(prompt.tokens.tolist()) == prompt.text


def test_every_conversation_is_masked_to_the_answer(shared_data: Path, tokenizer: Tokenizer):
    path = shared_data / "gsm8k_train_openhermes.jsonl"
    source = ConversationSource(ConversationDataConfig(prompt_data=f"{path}@[:300]"), tokenizer)
    source.validate()
    samples = source.next_batch(300)
    rows = [json.loads(line)["conversations"] for line in path.read_text().splitlines()[:300]]
    for sample, row in zip(samples, rows, strict=True):
        assert tokenizer.decode(sample.tokens[sample.loss_mask].tolist()) == row[1]["value"] + "<|im_end|>"
    batch = pack(samples, num_ranks=2, max_tokens=4096)
    assert batch.num_samples == 300


FORMS: tuple[Callable[[str], str], ...] = (
    lambda answer: answer,
    lambda answer: f"Answer: {answer}",
    lambda answer: f"So it is $\\boxed{{{answer}}}$.",
    lambda answer: f"Answer: ${answer}$ units",
    lambda answer: f"Therefore the result is ${answer}$.",
)


@pytest.fixture(scope="module")
def answers(shared_data: Path) -> list[str]:
    lines = (shared_data / "math_500_first_250.jsonl").read_text().splitlines()
    return [json.loads(line)["answer"] for line in lines]


@pytest.fixture(scope="module")
def graders() -> Generator[GraderPool]:
    with GraderPool(GraderConfig(rm_type="math", rm_timeout_s=20.0)) as graders:
        graders.grade_now("Answer: $\\sqrt{16}$", "4")
        yield graders


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_reference_answers_are_right_in_five_written_forms_and_other_answers_are_wrong(
    graders: GraderPool, answers: list[str], form: Callable[[str], str]
):
    others = answers[1:] + answers[:1]
    differing = [(given, label) for given, label in zip(others, answers, strict=True) if given != label]
    right = asyncio.run(graders.grade_many([(form(answer), answer, None) for answer in answers]))
    assert sum(grade.value == 1.0 for grade in right) >= 0.99 * len(answers)
    wrong = asyncio.run(graders.grade_many([(form(given), label, None) for given, label in differing]))
    assert sum(grade.value == 0.0 for grade in wrong) >= 0.99 * len(differing)


def test_mathematics_is_graded_200_times_a_second(graders: GraderPool, answers: list[str]):
    """Groups of 8 that share 4 answers, none compared before. Ten times as fast on two idle cores."""
    groups = [
        (form(f"{answers[(number + shift) % len(answers)]}+{number}"), f"{label}+{number}", None)
        for number, label in enumerate(answers[:100])
        for shift, form in enumerate(FORMS[:4])
        for _ in range(2)
    ]
    start = time.perf_counter()
    grades = asyncio.run(graders.grade_many(groups))
    assert len(grades) / (time.perf_counter() - start) >= 200
    assert all(grade.value is not None for grade in grades)


def test_dapo_is_graded_2000_times_a_second(answers: list[str]):
    """Responses of 4,000 characters. Twenty times as fast on an idle core."""
    items = [(f"{'Let us think. ' * 285}\nAnswer: {answer}", answer, None) for answer in answers * 8]
    with GraderPool("dapo") as graders:
        start = time.perf_counter()
        grades = asyncio.run(graders.grade_many(items))
        assert len(grades) / (time.perf_counter() - start) >= 2000
    assert all(grade.value == 1.0 for grade in grades)
