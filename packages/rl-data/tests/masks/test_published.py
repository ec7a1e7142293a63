"""The published template of a real model folder, RL_MODEL_FOLDER: its masks, and that a rewrite here gives its text."""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_data import ConversationRenderer, Tokenizer, load_tokenizer
from rl_data.chat import render_text

IM_END_ID = 151645  # of Qwen's vocabulary


def message(role: str, content: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


@pytest.fixture(scope="module")
def folder() -> Path:
    named = os.environ.get("RL_MODEL_FOLDER")
    if not named:
        pytest.skip("RL_MODEL_FOLDER names no model folder, whose published chat template would be tested")
    return Path(named)


@pytest.fixture(scope="module")
def published(folder: Path) -> Tokenizer:
    return load_tokenizer(folder, needs_chat_template=True)


@pytest.fixture(scope="module")
def rewritten(folder: Path, published: Tokenizer, qwen: Callable[[str], Tokenizer]) -> Tokenizer:
    """The same template as it is rewritten here, with Qwen's vocabulary."""
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    name = {"qwen3": "qwen3", "qwen2": "qwen2_5", "llama": "llama3_1"}.get(model_type)
    if name is None or (name == "qwen3" and "enable_thinking" not in str(published.chat_template)):
        pytest.skip(f"the template of {folder} is not rewritten here")
    return qwen(name)


CONVERSATIONS = [
    [("user", "question 1"), ("assistant", "answer 1")],
    [("system", "rule 0"), ("user", "question 1"), ("assistant", "answer 1"), ("user", "question 2")],
    [("user", "question 1"), ("assistant", "answer 1"), ("user", "question 2"), ("assistant", "answer 2")],
]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_what_the_assistant_wrote_is_trained_from_the_end_of_the_prompt_on(
    published: Tokenizer, turns: Sequence[tuple[str, str]]
):
    messages = [message(role, content) for role, content in turns]
    rendered = ConversationRenderer(published).render(messages)
    assert published.decode(rendered.tokens.tolist()) == rendered.text == render_text(published, messages)
    pairs = zip(rendered.tokens.tolist(), rendered.loss_mask.tolist(), strict=True)
    runs = [(trained, [token for token, _ in run]) for trained, run in itertools.groupby(pairs, lambda pair: pair[1])]
    written = [published.decode(run) for trained, run in runs if trained]
    others = "".join(published.decode(run) for trained, run in runs if not trained)
    answers = [content for role, content in turns if role == "assistant"]
    assert len(written) == len(answers)
    assert all(answer in text and answer not in others for answer, text in zip(answers, written, strict=True))
    assert all(content in others for role, content in turns if role != "assistant")
    assert {run[-1] for trained, run in runs if trained} <= {
        number for number, token in published.added_tokens_decoder.items() if token.special
    }
    last = max(number for number, (role, _) in enumerate(turns) if role == "assistant")
    prompt = render_text(published, messages[:last], add_generation_prompt=True)
    tokens = published.encode(prompt, add_special_tokens=False)
    assert rendered.tokens[: len(tokens)].tolist() == tokens
    assert rendered.loss_mask[len(tokens) - 1 : len(tokens) + 1].tolist() == [False, True]


CONTENTS = st.lists(
    st.sampled_from(["a", " b", "\n", "\n\n", "7", "<|im_end|>", "<think>", "</think>", "<think>\nhm\n</think>\n\n"]),
    max_size=4,
).map("".join)
CALLS = st.lists(
    st.fixed_dictionaries({"name": st.just("add"), "arguments": st.dictionaries(st.sampled_from("ab"), st.integers())}),
    max_size=2,
)


def answer(content: str, thought: str | None, calls: list[dict[str, Any]]) -> dict[str, object]:
    more: dict[str, object] = {} if thought is None else {"reasoning_content": thought}
    if calls:
        more["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message("assistant", content, **more)


MESSAGES = st.one_of(
    st.builds(message, st.sampled_from(["user", "user", "tool", "system"]), CONTENTS),
    st.builds(answer, CONTENTS, st.sampled_from([None, None, "", "\nso\n"]), CALLS),
    st.just(message("user", "<tool_response>\n2\n</tool_response>")),
)
TOOLS = [{"type": "function", "function": {"name": "add"}}]
THINKING = st.sampled_from([{}, {"enable_thinking": True}, {"enable_thinking": False}])


# The fixtures are the same for every case.
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(MESSAGES, min_size=1, max_size=7), tools=st.sampled_from([None, TOOLS]), arguments=THINKING)
def test_the_rewritten_template_gives_the_published_text_and_masks(
    published: Tokenizer, rewritten: Tokenizer, messages: Any, tools: Any, arguments: Mapping[str, Any]
):
    if "<|eot_id|>" in str(rewritten.chat_template):  # Llama's: see the templates
        messages = [
            {name: value[:1] if name == "tool_calls" else value for name, value in each.items()} for each in messages
        ]
        tools, arguments = None, {"date_string": "26 Jul 2024"}
    both = (published, rewritten)
    for is_prompt in (False, True):
        one, other = (
            render_text(each, messages, tools=tools, add_generation_prompt=is_prompt, template_arguments=arguments)
            for each in both
        )
        assert one == other
    if all(each["role"] != "assistant" for each in messages):
        return
    one, other = (
        ConversationRenderer(each, template_arguments=arguments).render(messages, tools=tools) for each in both
    )
    trained, trained_other = (
        tokenizer.decode(rendered.tokens[rendered.loss_mask].tolist())
        for tokenizer, rendered in zip(both, (one, other), strict=True)
    )
    assert trained == trained_other
    if published.encode("<|im_end|>", add_special_tokens=False) == [IM_END_ID]:
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.loss_mask.tolist() == other.loss_mask.tolist()
