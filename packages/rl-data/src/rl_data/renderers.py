"""Renderers of conversations for rows that have template arguments of their own."""

from collections.abc import Mapping

import msgspec

from rl_data.chat import ConversationRenderer
from rl_data.json import JsonValue
from rl_data.tokenizer import Tokenizer

_MAX_RENDERERS = 64
_ENCODER = msgspec.json.Encoder(order="deterministic")


class Renderers:
    """One renderer for each set of template arguments: what it learns of the template may depend on them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._renderers: dict[bytes, ConversationRenderer] = {}

    def of(self, arguments: Mapping[str, JsonValue]) -> ConversationRenderer:
        """The renderer for some arguments.

        Raises:
            DataError: if no mask can be made safely with this template or tokenizer.
        """
        key = _ENCODER.encode(dict(arguments))
        if key not in self._renderers:
            if len(self._renderers) >= _MAX_RENDERERS:
                self._renderers.clear()
            self._renderers[key] = ConversationRenderer(self._tokenizer, template_arguments=arguments)
        return self._renderers[key]
