"""Prompt data sets, in the schema of dapo-math-17k: a prompt, a label and what else a row carries."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from rl_data.chat import Tools, render_text
from rl_data.errors import DataError
from rl_data.fields import object_field, template_arguments, tools_field
from rl_data.json import JsonValue
from rl_data.messages import Message, check_messages, describe, require_key
from rl_data.order import RowReference
from rl_data.prompt import Prompt
from rl_data.reading import ReadingConfig
from rl_data.source import Cut, Source, TooLongError
from rl_data.tokenizer import Tokenizer, require_chat_template


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDataConfig(ReadingConfig):
    """Which prompts are read, and how they become tokens."""

    input_key: str = field(default="input", metadata={"help": "key of the prompt: text, or a list of messages"})
    label_key: str | None = field(default=None, metadata={"help": "key of the reference answer, which must be text"})
    metadata_key: str = field(
        default="metadata", metadata={"help": "key of an object that graders get, in rows that have it"}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "render prompts with the model's chat template; text is a user's message"}
    )
    rollout_max_prompt_len: int | None = field(
        default=None, metadata={"help": "prompts of more tokens than this are dropped or cut, counted and listed"}
    )
    on_long_prompt: Literal["drop", "cut"] = field(
        default="drop",
        metadata={"help": "what becomes of too long prompts; cut: the longest message loses its beginning"},
    )


type LabelCheck = Callable[[str | None, Mapping[str, JsonValue]], None]
"""Raises DataError for a label, or metadata, by which no response can be graded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a row says, before it is rendered."""

    messages: list[Message]
    label: str | None
    metadata: dict[str, JsonValue]
    tools: Tools
    template_arguments: dict[str, JsonValue]


class PromptSource(Source[Prompt]):
    """Prompts of a data set, batch after batch, without end.

    Args:
        config: which prompts, and how they become tokens.
        tokenizer: of the model that reads them.
        check_label: what `validate` asks about each row's label and metadata, for example `GraderPool.check_label`.

    Raises:
        DataError: if the file is missing or empty, or the tokenizer lacks a chat template that is needed.
    """

    def __init__(
        self, config: PromptDataConfig, tokenizer: Tokenizer, *, check_label: LabelCheck | None = None
    ) -> None:
        super().__init__(config, tokenizer)
        self._config = config
        self._tokenizer = tokenizer
        self._check_label = check_label
        if config.apply_chat_template:
            require_chat_template(tokenizer, where=config.name)

    def one_epoch(self) -> Iterator[Prompt]:
        """Every prompt once in the order of the file, for evaluation. Leaves the position as it is.

        Raises:
            DataError: if a row is bad and bad rows are not skipped, or too many are.
        """
        for row in range(len(self)):
            prompt = self._taken(self.made(RowReference(epoch=0, row=row)))
            if prompt is not None:
                yield prompt

    def _check(self, row: dict[str, JsonValue]) -> None:
        parsed = self._parse(row)
        if not self._config.apply_chat_template and not parsed.messages[0]["content"]:
            self._tokenize_some(parsed)
        if self._check_label is not None:
            self._check_label(parsed.label, parsed.metadata)

    def _make(self, row: dict[str, JsonValue], reference: RowReference) -> Prompt | Cut[Prompt]:
        config = self._config
        parsed = self._parse(row)
        text, tokens = self._tokenize_some(parsed)
        num_tokens, most = len(tokens), config.rollout_max_prompt_len
        is_too_long = most is not None and num_tokens > most
        if most is not None and is_too_long:
            if config.on_long_prompt == "drop":
                raise TooLongError(num_tokens, most)
            text, tokens = self._shortened(parsed, num_tokens, most)
        prompt = Prompt(
            row=reference.row,
            epoch=reference.epoch,
            tokens=np.array(tokens, dtype=np.int32),
            text=text,
            label=parsed.label,
            metadata=parsed.metadata,
        )
        return Cut(prompt, num_tokens, most) if most is not None and is_too_long else prompt

    def _shortened(self, row: _Row, num_tokens: int, max_tokens: int) -> tuple[str, list[int]]:
        """Text and tokens with as much of the end of the longest message as fits; the others stay as they are.

        Raises:
            TooLongError: if they do not fit even without it.
        """
        contents = [str(message["content"]) for message in row.messages]
        longest = max(range(len(contents)), key=lambda number: len(contents[number]))
        fitting: tuple[str, list[int]] | None = None
        fits, too_many = 0, len(contents[longest])  # characters of the end
        while fits < too_many:
            kept = (fits + too_many) // 2
            messages = list(row.messages)
            messages[longest] = {**messages[longest], "content": contents[longest][len(contents[longest]) - kept :]}
            text, tokens = self._tokenize(replace(row, messages=messages))
            if 0 < len(tokens) <= max_tokens:
                fitting, fits = (text, tokens), kept + 1
            elif tokens:
                too_many = kept
            else:  # an empty text is no prompt
                fits = kept + 1
        if fitting is None:
            raise TooLongError(num_tokens, max_tokens)
        return fitting

    def _parse(self, row: dict[str, JsonValue]) -> _Row:
        """The row's fields, checked."""
        config = self._config
        value = require_key(row, config.input_key)
        if isinstance(value, str):
            messages: list[Message] = [{"role": "user", "content": value}]
        elif config.apply_chat_template:
            messages = check_messages(value, key=config.input_key)
        else:
            found = f"found {describe(value)}; a list of messages needs --apply-chat-template"
            raise DataError(f"key {config.input_key!r}: expected text, {found}")
        label: JsonValue = None
        if config.label_key is not None:
            label = require_key(row, config.label_key)
            if not isinstance(label, str):
                raise DataError(f"key {config.label_key!r}: label must be text, got {describe(label)}")
        return _Row(
            messages=messages,
            label=label,
            metadata=object_field(row, config.metadata_key),
            tools=tools_field(row, config.tool_key),
            template_arguments=template_arguments(
                row, config.chat_template_kwargs_key, config.apply_chat_template_kwargs
            ),
        )

    def _tokenize_some(self, row: _Row) -> tuple[str, list[int]]:
        """As `_tokenize`; raises DataError if there is no token."""
        text, tokens = self._tokenize(row)
        if not tokens:
            raise DataError(f"key {self._config.input_key!r}: expected a prompt, found an empty text")
        return text, tokens

    def _tokenize(self, row: _Row) -> tuple[str, list[int]]:
        """The row's prompt as text and as tokens."""
        if not self._config.apply_chat_template:
            # A template writes its own special tokens; raw text gets those that the tokenizer adds, if any.
            text = str(row.messages[0]["content"])
            return text, self._tokenizer.encode(text, add_special_tokens=True)
        text = render_text(
            self._tokenizer,
            row.messages,
            tools=row.tools,
            add_generation_prompt=True,
            template_arguments=row.template_arguments,
        )
        return text, self._tokenizer.encode(text, add_special_tokens=False)
