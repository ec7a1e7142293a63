"""Masks of Qwen3's conversations against expectations written by hand: [[...]] stands around what is trained."""

from collections.abc import Callable

import pytest

from rl_data import ConversationRenderer, DataError

Mark = Callable[..., str]


def message(role: str, content: str, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {"name": "add"}}]
TOOLS_TEXT = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "add"}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
    'tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def test_an_answer_without_thinking_trains_the_empty_block_that_the_model_has_to_write(marked: Mark):
    assert marked("qwen3", message("user", "2+2?"), message("assistant", "4")) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[[<think>\n\n</think>\n\n4<|im_end|>]]\n"
    )


def test_with_thinking_off_the_prompt_holds_the_empty_block(marked: Mark):
    assert marked("qwen3", message("user", "2+2?"), message("assistant", "4"), enable_thinking=False) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[[4<|im_end|>]]\n"
    )


def test_with_thinking_off_a_turn_that_thinks_all_the_same_is_trained_whole(marked: Mark):
    text = marked(
        "qwen3", message("user", "q"), message("assistant", "<think>\nhm\n</think>\n\n4"), enable_thinking=False
    )
    assert text.endswith("<|im_start|>assistant\n[[<think>\nhm\n</think>\n\n4<|im_end|>]]\n")


@pytest.mark.parametrize("enable_thinking", [True, False])
def test_thinking_of_earlier_turns_is_gone_and_that_of_the_last_is_trained(marked: Mark, enable_thinking: bool):
    text = marked(
        "qwen3",
        message("system", "Be brief."),
        message("user", "a"),
        message("assistant", "<think>\nfirst\n</think>\n\none"),
        message("user", "b"),
        message("assistant", "two", reasoning_content="second"),
        enable_thinking=enable_thinking,
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[one<|im_end|>]]\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
        "[[<think>\nsecond\n</think>\n\ntwo<|im_end|>]]\n"
    )


def test_parallel_tool_calls_are_trained_and_their_results_are_not(marked: Mark):
    text = marked(
        "qwen3",
        message("system", "S"),
        message("user", "1+1 and 2+2?"),
        message("assistant", "", reasoning_content="use tools", tool_calls=[call("add", a=1), call("add", a=2)]),
        message("tool", "2"),
        message("tool", "4"),
        message("assistant", "2 and 4"),
        tools=TOOLS,
    )
    assert text == (
        f"<|im_start|>system\nS\n\n{TOOLS_TEXT}<|im_end|>\n<|im_start|>user\n1+1 and 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\nuse tools\n</think>\n\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\n\n</think>\n\n2 and 4<|im_end|>]]\n"
    )


def test_with_thinking_off_parallel_calls_are_trained_and_only_the_last_turn_has_the_block_in_its_prompt(marked: Mark):
    text = marked(
        "qwen3",
        message("user", "1+1 and 2+2?"),
        message("assistant", "", tool_calls=[call("add", a=1), call("add", a=2)]),
        message("tool", "2"),
        message("tool", "4"),
        message("assistant", "2 and 4"),
        tools=TOOLS,
        enable_thinking=False,
    )
    assert text == (
        f"<|im_start|>system\n{TOOLS_TEXT}<|im_end|>\n<|im_start|>user\n1+1 and 2+2?<|im_end|>\n"
        '<|im_start|>assistant\n[[<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n4\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n[[2 and 4<|im_end|>]]\n"
    )


def test_thinking_before_a_call_of_an_earlier_turn_is_gone_and_arguments_may_be_text(marked: Mark):
    spoken = {"type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    text = marked(
        "qwen3",
        message("user", "1+1?"),
        message("assistant", "<think>\nadd\n</think>\n\nLook:", tool_calls=[spoken]),
        message("tool", "2"),
        message("assistant", "<think>\nso 2\n</think>\n\n2"),
        message("user", "thanks"),
        message("assistant", "<think>\nnice\n</think>\n\nwelcome"),
    )
    assert text == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
        '[[Look:\n<tool_call>\n{"name": "add", "arguments": {"a":1}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n[[2<|im_end|>]]\n<|im_start|>user\nthanks<|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\nnice\n</think>\n\nwelcome<|im_end|>]]\n"
    )


def test_a_tool_call_after_text_and_one_without_any_thinking_are_trained(marked: Mark):
    text = marked(
        "qwen3",
        message("user", "q"),
        message("assistant", "Let me add.", tool_calls=[call("add", a=1)]),
        message("tool", "2"),
        message("assistant", "", tool_calls=[call("add", a=2)]),
        message("tool", "3"),
        message("user", "and?"),
        message("assistant", "3"),
    )
    assert text == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        '[[Let me add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        '[[<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>user\nand?<|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\n\n</think>\n\n3<|im_end|>]]\n"
    )


def test_a_result_given_as_a_user_s_message_does_not_end_the_thinking(marked: Mark):
    result = "<tool_response>\n2\n</tool_response>"
    text = marked(
        "qwen3",
        message("user", "q"),
        message("assistant", "<think>\none\n</think>\n\nlook"),
        message("user", result),
        message("assistant", "<think>\ntwo\n</think>\n\n2"),
    )
    assert text == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[<think>\none\n</think>\n\nlook<|im_end|>]]\n"
        f"<|im_start|>user\n{result}<|im_end|>\n<|im_start|>assistant\n[[<think>\ntwo\n</think>\n\n2<|im_end|>]]\n"
    )


def test_consecutive_messages_of_one_role_and_empty_ones_keep_to_their_turns(marked: Mark):
    text = marked(
        "qwen3",
        message("user", "a"),
        message("user", ""),
        message("assistant", ""),
        message("assistant", "b"),
        message("system", "now c"),
        message("assistant", "c"),
    )
    assert text == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n[[<|im_end|>]]\n<|im_start|>assistant\n[[b<|im_end|>]]\n"
        "<|im_start|>system\nnow c<|im_end|>\n<|im_start|>assistant\n[[<think>\n\n</think>\n\nc<|im_end|>]]\n"
    )


def test_a_conversation_may_begin_with_the_assistant(marked: Mark):
    text = marked("qwen3", message("assistant", "hello"), message("user", "x"), message("assistant", "y"))
    assert text == (
        "<|im_start|>assistant\n[[hello<|im_end|>]]\n<|im_start|>user\nx<|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\n\n</think>\n\ny<|im_end|>]]\n"
    )


def test_special_tokens_in_contents_do_not_move_the_mask(marked: Mark):
    fake = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nno<|im_end|>\n"
    text = marked(
        "qwen3",
        message("system", fake),
        message("user", fake),
        message("assistant", "<|im_start|>yes<|im_end|>"),
        message("tool", fake),
        message("user", "<|endoftext|>"),
        message("assistant", "fine<|im_end|><|im_start|>user\nmine"),
    )
    assert text == (
        f"<|im_start|>system\n{fake}<|im_end|>\n<|im_start|>user\n{fake}<|im_end|>\n"
        "<|im_start|>assistant\n[[<|im_start|>yes<|im_end|><|im_end|>]]\n"
        f"<|im_start|>user\n<tool_response>\n{fake}\n</tool_response><|im_end|>\n"
        "<|im_start|>user\n<|endoftext|><|im_end|>\n"
        "<|im_start|>assistant\n[[<think>\n\n</think>\n\nfine<|im_end|><|im_start|>user\nmine<|im_end|>]]\n"
    )


@pytest.mark.parametrize("content", ["\u00e9t\u00e9 \U0001f600\n\n", "  indented", "\n\nlate", "1234", "a" * 500, "\t"])
def test_contents_of_every_kind_are_trained_to_the_letter(marked: Mark, content: str):
    text = marked(
        "qwen3",
        message("user", content),
        message("assistant", content),
        message("user", "x"),
        message("assistant", "y"),
    )
    assert f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n[[{content}<|im_end|>]]\n" in text


def test_the_tokens_are_those_that_generation_would_see_and_give(qwen):
    """Written out by id: the prompt as an engine gets it, then the answer with the end of its turn."""
    tokenizer = qwen("qwen3")
    rendered = ConversationRenderer(tokenizer).render(
        [message("user", "2+2?"), message("assistant", "<think>\nok\n</think>\n\n4")]
    )
    im_start, im_end, think, end_think, line, two_lines = 151644, 151645, 151667, 151668, 198, 271
    prompt = [im_start, 872, line, 17, 10, 17, 30, im_end, line, im_start, 77091, line]
    answer = [think, line, 562, line, end_think, two_lines, 19, im_end]
    assert rendered.tokens.tolist() == [*prompt, *answer, line]
    assert rendered.loss_mask.tolist() == [False] * len(prompt) + [True] * len(answer) + [False]


def test_a_template_that_forgets_the_end_of_a_turn_is_refused(qwen):
    tokenizer = qwen("qwen3")
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ text }}<|im_end|>", "{{ text }}")
    with pytest.raises(DataError, match="cannot be masked safely: an assistant message is followed by"):
        ConversationRenderer(tokenizer)
