"""Conversation data sets for supervised training, as samples whose mask covers what the assistant wrote."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_data.chat import Tools
from rl_data.errors import DataError
from rl_data.fields import template_arguments, tools_field
from rl_data.json import JsonValue
from rl_data.messages import Message, check_messages, check_turns, has_turns, require_key
from rl_data.order import RowReference
from rl_data.reading import ReadingConfig
from rl_data.renderers import Renderers
from rl_data.sample import Sample
from rl_data.source import Cut, Source, TooLongError
from rl_data.tokenizer import Tokenizer

_OPENHERMES_KEY = "conversations"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationDataConfig(ReadingConfig):
    """Which conversations are read, and how they become tokens."""

    input_key: str = field(
        default="messages",
        metadata={"help": "key of the messages; without it, a file with the key `conversations` is read as OpenHermes"},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "conversations of more tokens than this are dropped or cut, counted and listed"}
    )
    on_long_conversation: Literal["drop", "cut"] = field(
        default="drop",
        metadata={
            "help": "what becomes of too long conversations; cut: they lose their end, and are dropped where nothing "
            "to train is left"
        },
    )


class ConversationSource(Source[Sample]):
    """Conversations of a data set as samples, batch after batch, without end.

    A row is {"messages": [{"role", "content"}]} or, as in OpenHermes, {"conversations": [{"from", "value"}]}; the first
    row (where bad ones are skipped: the first that is either) tells which, and every row must be of the same kind.

    Raises:
        DataError: if the file is missing or empty, or the chat template cannot be masked safely.
    """

    def __init__(self, config: ConversationDataConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self._config = config
        self._tokenizer = tokenizer
        self._renderers = Renderers(tokenizer)
        # A template that cannot be masked is refused before the first row is read.
        self._renderers.of(config.apply_chat_template_kwargs)
        keys = (config.input_key, _OPENHERMES_KEY)
        number, first = self._first_row(lambda row: any(_schema_of(row.get(key)) for key in keys))
        self._key = config.input_key
        if self._key not in first and _OPENHERMES_KEY in first:
            self._key = _OPENHERMES_KEY
        self._schema = _schema_of(first.get(self._key))
        self._first_row_number = number

    def _check(self, row: dict[str, JsonValue]) -> None:
        self._parse(row)
        self._arguments(row)

    def _make(self, row: dict[str, JsonValue], reference: RowReference) -> Sample | Cut[Sample]:
        messages, tools = self._parse(row)
        rendered = self._renderers.of(self._arguments(row)).render(messages, tools=tools)
        length, most = len(rendered.tokens), self._config.max_length
        if most is None or length <= most:
            return self._sample(rendered.tokens, rendered.loss_mask, reference)
        if self._config.on_long_conversation == "drop":
            raise TooLongError(length, most)
        if not rendered.loss_mask[:most].any():
            raise TooLongError(length, most, why_not_cut="of which none is to be trained")
        return Cut(self._sample(rendered.tokens[:most], rendered.loss_mask[:most], reference), length, most)

    def _sample(self, tokens: NDArray[np.int32], loss_mask: NDArray[np.bool_], reference: RowReference) -> Sample:
        prompt_length = int(loss_mask.argmax())
        return Sample(
            group_id=f"{reference.epoch}-{reference.row}",
            index=0,
            tokens=tokens,
            prompt_length=prompt_length,
            loss_mask=loss_mask,
            rollout_logprobs=np.zeros(len(tokens), dtype=np.float32),
            response_text=self._tokenizer.decode(tokens[prompt_length:].tolist()),
        )

    def _parse(self, row: dict[str, JsonValue]) -> tuple[list[Message], Tools]:
        """The row's messages and tools, checked."""
        messages = self._messages(require_key(row, self._key))
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError(f"key {self._key!r}: expected a message of the assistant to train on, found none")
        return messages, tools_field(row, self._config.tool_key)

    def _messages(self, value: JsonValue) -> list[Message]:
        """The messages under the key, in the schema of the first row."""
        check = check_turns if self._schema == "from and value" else check_messages
        try:
            return check(value, key=self._key)
        except DataError as error:
            found = _schema_of(value)
            if found is None or self._schema in (None, found):
                raise
            first = self._rows.where(self._first_row_number)
            raise DataError(f"{error}; {first} has {self._schema}, and all rows must be of one schema") from error

    def _arguments(self, row: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The row's variables of the chat template."""
        return template_arguments(row, self._config.chat_template_kwargs_key, self._config.apply_chat_template_kwargs)


def _schema_of(value: JsonValue) -> Literal["role and content", "from and value"] | None:
    """How messages are written, judged by the first; None if they are none."""
    if has_turns(value):
        return "from and value"
    first = value[0] if isinstance(value, list) and value else None
    return "role and content" if isinstance(first, dict) and "role" in first else None
