"""What masks are made of, on small templates; templates that are refused. [[...]] stands around what is trained."""

import itertools

import pytest

from rl_data import ConversationRenderer, DataError
from rl_data.testing import CHATML_TEMPLATE, tiny_tokenizer

# Llama 3's frame, with <|im_start|> and <|im_end|> in the place of its header and end-of-turn tokens: a beginning
# token, a default system message, trimmed content, no line end after a turn.
TRIMMING_TEMPLATE = """
{{- '<|endoftext|>' }}
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\n\\nToday is a day.<|im_end|>' }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n\\n' + message.content | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""


def message(role: str, content: str | None, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def marked(template: str, *messages: dict[str, object], tools: object = None, **arguments: object) -> str:
    """The rendering with [[...]] around each run of trained tokens."""
    tokenizer = tiny_tokenizer(chat_template=template)
    rendered = ConversationRenderer(tokenizer, template_arguments=arguments).render(messages, tools=tools)
    assert tokenizer.decode(rendered.tokens.tolist()) == rendered.text
    pieces: list[str] = []
    for is_trained, run in itertools.groupby(
        zip(rendered.tokens, rendered.loss_mask, strict=True), lambda pair: pair[1]
    ):
        text = tokenizer.decode([int(token) for token, _ in run])
        pieces.append(f"[[{text}]]" if is_trained else text)
    return "".join(pieces)


def test_answers_and_their_end_of_turn_tokens_are_trained():
    assert marked(CHATML_TEMPLATE, message("user", "2+2?"), message("assistant", "4")) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[[4<|im_end|>]]\n"
    )


def test_every_answer_of_a_conversation_is_trained_and_nothing_else():
    text = marked(
        CHATML_TEMPLATE,
        message("system", "Be brief."),
        message("user", "2+2?"),
        message("assistant", "4"),
        message("user", "3+3?"),
        message("assistant", "6"),
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[[4<|im_end|>]]\n"
        "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n[[6<|im_end|>]]\n"
    )


def test_consecutive_and_empty_answers_end_each_on_its_own():
    text = marked(CHATML_TEMPLATE, message("user", "q"), message("assistant", ""), message("assistant", "b"))
    assert text == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[<|im_end|>]]\n<|im_start|>assistant\n[[b<|im_end|>]]\n"
    )


def test_text_that_looks_like_the_template_does_not_move_the_mask():
    fake = "<|im_end|>\n<|im_start|>assistant\nno"
    text = marked(
        CHATML_TEMPLATE,
        message("user", f"say {fake}"),
        message("assistant", f"yes{fake}"),
        message("user", "MARKER0ANSWER"),
        message("assistant", "MARKER1ANSWER"),
    )
    assert text == (
        f"<|im_start|>user\nsay {fake}<|im_end|>\n<|im_start|>assistant\n[[yes{fake}<|im_end|>]]\n"
        "<|im_start|>user\nMARKER0ANSWER<|im_end|>\n<|im_start|>assistant\n[[MARKER1ANSWER<|im_end|>]]\n"
    )


def test_no_token_reaches_from_the_prompt_into_the_answer():
    """As in generation, where the prompt is tokenized up to the answer and its last line end stays alone."""
    tokenizer = tiny_tokenizer(joined=["\n\n"])
    turns = [message("user", "q"), message("assistant", "\nlate")]
    prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    rendered = ConversationRenderer(tokenizer).render(turns)
    assert rendered.text.startswith(prompt + "\nlate")
    prompt_tokens = tokenizer.encode(prompt, add_special_tokens=False)
    assert rendered.tokens[~rendered.loss_mask].tolist()[: len(prompt_tokens)] == prompt_tokens
    assert tokenizer.decode(rendered.tokens[rendered.loss_mask].tolist()) == "\nlate<|im_end|>"
    # Tokenized as a whole, the two line ends would be one token, which is neither the prompt's nor the answer's.
    assert len(tokenizer.encode(rendered.text, add_special_tokens=False)) == len(rendered.tokens) - 1


def test_what_the_prompt_leaves_to_the_model_is_trained():
    """As with templates that put a blank before answers, and nothing at the end of a prompt."""
    template = (
        "{%- for message in messages %}"
        "{{- ' ' + message.content + '<|im_end|>' if message.role == 'assistant' else '[' + message.content + ']' }}"
        "{%- endfor %}"
    )
    text = marked(
        template, message("user", "q"), message("assistant", "a"), message("user", "r"), message("assistant", "")
    )
    assert text == "[q][[ a<|im_end|>]][r][[ <|im_end|>]]"


def test_a_template_that_trims_and_adds_a_system_message_is_masked():
    text = marked(TRIMMING_TEMPLATE, message("user", " q "), message("assistant", "  4  "), message("user", "more"))
    assert text == (
        "<|endoftext|><|im_start|>system\n\nToday is a day.<|im_end|><|im_start|>user\n\nq<|im_end|>"
        "<|im_start|>assistant\n\n[[4<|im_end|>]]<|im_start|>user\n\nmore<|im_end|>"
    )


@pytest.mark.parametrize(
    ("template", "message_of_error"),
    [
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}",
            "is followed by '\\\\nQuestion\\\\n', not by a special token: nothing would teach the model to stop",
        ),
        (
            CHATML_TEMPLATE.split("{%- if add_generation_prompt")[0],
            r"answers are generated after '', but read after '<\|im_start\|>assistant",
        ),
        (
            CHATML_TEMPLATE.replace("assistant\\n' }}{%- endif", "model\\n' }}{%- endif"),
            r"answers are generated after '<\|im_start\|>model",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}",
            "not by a special token: nothing would teach the model to stop",
        ),
        (
            "{{ messages | length }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            "an assistant message does not simply follow what stands before it",
        ),
        ("", "the tokenizer has no chat template"),
    ],
)
def test_a_template_that_cannot_be_masked_is_refused_with_the_reason(template: str, message_of_error: str):
    with pytest.raises(DataError, match=message_of_error):
        ConversationRenderer(tiny_tokenizer(chat_template=template))


def test_text_that_depends_on_an_answer_is_refused():
    adding = "{%- if messages | length > 1 and 'x' in messages[1].content %}{{- 'Say x. ' }}{%- endif %}"
    renderer = ConversationRenderer(tiny_tokenizer(chat_template=adding + CHATML_TEMPLATE))
    renderer.render([message("user", "q"), message("assistant", "y")])
    with pytest.raises(DataError, match="the text before message 1 depends on what the assistant says in it or later"):
        renderer.render([message("user", "q"), message("assistant", "x")])


def test_text_after_an_answer_that_depends_on_it_is_refused():
    adding = "{%- if messages | length > 2 and 'x' in messages[1].content %}{{- 'That was x.' }}{%- endif %}"
    renderer = ConversationRenderer(tiny_tokenizer(chat_template=CHATML_TEMPLATE + adding))
    turns = [message("user", "q"), message("assistant", "x"), message("user", "r")]
    with pytest.raises(DataError, match="the text after message 1 depends on what the assistant says in it or earlier"):
        renderer.render(turns)


def test_a_template_that_merges_consecutive_answers_is_refused_where_there_are_some():
    merging = CHATML_TEMPLATE.replace(
        "{{- '<|im_start|>' + message.role + '\\n' + message.content",
        "{{- '<|im_start|>' + message.role + '\\n' if loop.first or loop.previtem.role != message.role }}"
        "{{- message.content",
    )
    renderer = ConversationRenderer(tiny_tokenizer(chat_template=merging))
    turns = [message("user", "q"), message("assistant", "a")]
    assert renderer.render(turns).text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    with pytest.raises(DataError, match=r"message 2 has no header '<\|im_start\|>assistant\\n' of its own"):
        renderer.render([*turns, message("assistant", "b")])


def test_a_template_that_leaves_the_last_turn_open_is_refused_there():
    closing = "}}{{- '<|im_end|>\\n' if not loop.last or message.role != 'assistant' }}"
    template = CHATML_TEMPLATE.replace("+ '<|im_end|>\\n' }}", closing)
    renderer = ConversationRenderer(tiny_tokenizer(chat_template=template))
    turns = [message("user", "q"), message("assistant", "a")]
    with pytest.raises(DataError, match=r"message 1 is followed by '', expected '<\|im_end\|>'"):
        renderer.render(turns)


def test_a_tokenizer_that_changes_a_piece_of_text_is_refused():
    class Prefixing:
        """Puts a blank before what it encodes, as some tokenizers do."""

        def __init__(self) -> None:
            self.inner = tiny_tokenizer()
            self.chat_template = self.inner.chat_template
            self.added_tokens_decoder = self.inner.added_tokens_decoder
            self.apply_chat_template = self.inner.apply_chat_template

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return self.inner.encode(f" {text}", add_special_tokens=add_special_tokens)

    with pytest.raises(
        DataError, match="the tokenizer changes text at the start of a piece: no mask can be made safely"
    ):
        ConversationRenderer(Prefixing())


def test_a_template_that_repeats_an_answer_is_refused():
    repeating = CHATML_TEMPLATE + "{%- if messages | length > 3 %}{{- messages[1].content }}{%- endif %}"
    renderer = ConversationRenderer(tiny_tokenizer(chat_template=repeating))
    turns = [message("user", "q"), message("assistant", "a")] * 2
    with pytest.raises(DataError, match="cannot be masked safely: message 1 appears 2 times, expected once"):
        renderer.render(turns)


def test_a_conversation_without_an_answer_is_refused():
    with pytest.raises(DataError, match="expected an assistant message to train on, found none"):
        ConversationRenderer(tiny_tokenizer()).render([message("user", "q")])
