"""Rows of any schema as a model sees them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rl_data.chat import render_text
from rl_data.errors import DataError
from rl_data.fields import template_arguments, tools_field
from rl_data.json import JsonValue
from rl_data.messages import Message, check_messages, check_turns, has_turns, require_key
from rl_data.renderers import Renderers
from rl_data.tokenizer import Tokenizer

KEYS = ("messages", "conversations", "prompt", "input")
"""Where the messages of a row are looked for, if no key is given."""


class RowRenderer:
    """Renders prompts, as text or messages, and conversations of both schemas.

    Args:
        tokenizer: one with a chat template.
        input_key: of the messages or the text; the first of `KEYS` that a row has if None.
        arguments: variables of the chat template; a row's own, under `chat_template_kwargs`, win over them.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, input_key: str | None = None, arguments: Mapping[str, JsonValue] | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._renderers = Renderers(tokenizer)
        self._input_key = input_key
        self._arguments = arguments or {}

    def render(self, row: Mapping[str, JsonValue]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """[T] tokens of a row and [T] whether they would be trained: a conversation's answers, nothing of a prompt.

        Raises:
            DataError: if the row is neither a prompt nor a conversation, or the chat template refuses it.
        """
        messages = self._messages(row)
        tools = tools_field(row, "tools")
        arguments = template_arguments(row, "chat_template_kwargs", self._arguments)
        if any(message["role"] == "assistant" for message in messages):
            rendered = self._renderers.of(arguments).render(messages, tools=tools)
            return rendered.tokens, rendered.loss_mask
        text = render_text(
            self._tokenizer, messages, tools=tools, add_generation_prompt=True, template_arguments=arguments
        )
        tokens = np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
        return tokens, np.zeros(len(tokens), dtype=np.bool_)

    def _messages(self, row: Mapping[str, JsonValue]) -> list[Message]:
        key = self._input_key or next((key for key in KEYS if key in row), None)
        if key is None:
            raise DataError(f"expected one of the keys {', '.join(KEYS)}, found keys {sorted(row)}")
        value = require_key(row, key)
        if isinstance(value, str):
            return [{"role": "user", "content": value}]
        return check_turns(value, key=key) if has_turns(value) else check_messages(value, key=key)
