"""Masks of Qwen2.5's conversations against expectations written by hand: [[...]] stands around what is trained."""

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Mark = Callable[..., str]

DEFAULT = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"


def message(role: str, content: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def test_answers_are_trained_and_the_system_message_of_the_template_is_not(marked: Mark):
    text = marked(
        "qwen2_5", message("user", "a"), message("assistant", "b"), message("user", "c"), message("assistant", "")
    )
    assert text == (
        f"{DEFAULT}<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b<|im_end|>]]\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[[<|im_end|>]]\n"
    )


def test_thinking_is_text_like_any_other_and_stays_in_earlier_turns(marked: Mark):
    thought = "<think>hm</think>b"
    text = marked(
        "qwen2_5", message("system", ""), message("user", "a"), message("assistant", thought), message("assistant", "c")
    )
    assert text == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        f"<|im_start|>assistant\n[[{thought}<|im_end|>]]\n<|im_start|>assistant\n[[c<|im_end|>]]\n"
    )


def test_tool_calls_with_and_without_text_are_trained_and_results_are_not(marked: Mark):
    text = marked(
        "qwen2_5",
        message("user", "q"),
        message("assistant", "", tool_calls=[call("add", a=1), call("add", a=2)]),
        message("tool", "2"),
        message("tool", "<|im_end|>"),
        message("assistant", "Again.", tool_calls=[call("add", a=3)]),
        message("tool", "4"),
        message("assistant", "4"),
    )
    assert text == (
        f"{DEFAULT}<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        '[[<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n"
        "<tool_response>\n<|im_end|>\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
        '[[Again.\n<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n<|im_start|>assistant\n[[4<|im_end|>]]\n"
    )


def test_tools_stand_in_the_system_message_and_are_not_trained(marked: Mark):
    text = marked(
        "qwen2_5",
        message("user", "1+1?"),
        message("assistant", "", tool_calls=[call("add", a=1)]),
        message("tool", "2"),
        message("assistant", "2"),
        tools=[{"type": "function", "function": {"name": "add"}}],
    )
    assert text == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n"
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "add"}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n1+1?<|im_end|>\n"
        '<|im_start|>assistant\n[[<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n[[2<|im_end|>]]\n"
    )


def test_consecutive_messages_of_one_role_keep_to_their_turns(marked: Mark):
    text = marked(
        "qwen2_5",
        message("system", "S"),
        message("user", "a"),
        message("user", "b"),
        message("assistant", ""),
        message("assistant", "c"),
        message("system", "T"),
    )
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
        "<|im_start|>assistant\n[[<|im_end|>]]\n<|im_start|>assistant\n[[c<|im_end|>]]\n<|im_start|>system\nT<|im_end|>\n"
    )


CONTENTS = st.lists(
    st.sampled_from(["a", " b", "\n", "\n\n", "7", "<|im_end|>", "<|im_start|>assistant\n", "<think>", "\u00e9"]),
    max_size=5,
).map("".join)
TURNS = st.lists(st.tuples(st.sampled_from(["user", "user", "assistant"]), CONTENTS), min_size=1, max_size=8).filter(
    lambda turns: any(role == "assistant" for role, _ in turns)
)


# The fixture is the same for every case.
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=TURNS)
def test_any_order_of_roles_and_any_contents_give_the_text_that_the_format_says(
    marked: Mark, turns: list[tuple[str, str]]
):
    expected = DEFAULT
    for role, content in turns:
        ended = f"{content}<|im_end|>"
        expected += f"<|im_start|>{role}\n{f'[[{ended}]]' if role == 'assistant' else ended}\n"
    assert marked("qwen2_5", *(message(role, content) for role, content in turns)) == expected
