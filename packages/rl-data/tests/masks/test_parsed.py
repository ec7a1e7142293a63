"""Masks against a parser: where no content has the format's own marks, answers can be found in the text by them."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_data import ConversationRenderer, Tokenizer

ANSWERS = {
    "qwen3": r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)",
    "qwen2_5": r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)",
    "llama3_1": r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)",
}
NO_THOUGHT = "<think>\n\n</think>\n\n"
"""With thinking off this stands in the prompt."""

CONTENTS = st.lists(
    st.sampled_from(["a", " b", "\n", "\n\n", "7", "assistant\n", "\u00e9", "MARKER0ANSWER"]), max_size=4
)
THOUGHTS = st.sampled_from(["", "", "<think>\nhm\n</think>\n\n", "<think>\n\n</think>\n\n"])
CALLS = st.sampled_from([[], [], [1], [1, 2]])
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def message(role: str, content: list[str]) -> dict[str, Any]:
    return {"role": role, "content": "".join(content)}


def answer(thought: str, content: list[str], calls: list[int]) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": "add", "arguments": {"a": number}}} for number in calls]
    return {**message("assistant", [thought, *content]), **({"tool_calls": made} if made else {})}


MESSAGES = st.lists(
    st.one_of(
        st.builds(message, st.sampled_from(["user", "user", "tool", "system"]), CONTENTS),
        st.builds(answer, THOUGHTS, CONTENTS, CALLS),
    ),
    min_size=1,
    max_size=7,
).filter(lambda messages: any(each["role"] == "assistant" for each in messages))


# The fixture is the same for every case.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES, tools=st.sampled_from([None, TOOLS]), thinks=st.sampled_from([None, True, False]))
@pytest.mark.parametrize("template", ANSWERS)
def test_trained_is_what_a_parser_of_the_format_finds(
    template: str,
    qwen: Callable[[str], Tokenizer],
    messages: list[dict[str, Any]],
    tools: Any,
    thinks: bool | None,
):
    if template == "llama3_1":  # it takes one call at most, and tools only before a user's message
        tools = None
        messages = [{key: each[key][:1] if key == "tool_calls" else each[key] for key in each} for each in messages]
    arguments = {} if thinks is None else {"enable_thinking": thinks}
    tokenizer = qwen(template)
    rendered = ConversationRenderer(tokenizer, template_arguments=arguments).render(messages, tools=tools)
    expected = re.findall(ANSWERS[template], rendered.text, re.DOTALL)
    if template == "qwen3" and thinks is False:
        expected = [each.removeprefix(NO_THOUGHT) for each in expected]
    pairs = zip(rendered.tokens.tolist(), rendered.loss_mask.tolist(), strict=True)
    runs = itertools.groupby(pairs, key=lambda pair: pair[1])
    assert [tokenizer.decode([token for token, _ in run]) for is_trained, run in runs if is_trained] == expected
    assert len(expected) == sum(each["role"] == "assistant" for each in messages)
