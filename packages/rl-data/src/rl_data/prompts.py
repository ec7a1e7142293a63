"""Prompt data sets, in the schema of dapo-math-17k: a prompt, a label and what else a row carries."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from rl_data.chat import Tools, render_text
from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import Message, check_messages, check_tools, describe, require_key
from rl_data.order import RowReference
from rl_data.prompt import Prompt
from rl_data.source import Source, TooLongError
from rl_data.tokenizer import Tokenizer, require_chat_template


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDataConfig:
    """Which prompts are read, and how they become tokens."""

    prompt_data: str = field(metadata={"help": "prompts: a .jsonl or .parquet file, with a slice as in FILE@[0:100]"})
    input_key: str = field(default="input", metadata={"help": "key of the prompt: text, or a list of messages"})
    label_key: str | None = field(default=None, metadata={"help": "key of the reference answer, which must be text"})
    metadata_key: str = field(
        default="metadata", metadata={"help": "key of an object that graders get, in rows that have it"}
    )
    tool_key: str = field(
        default="tools", metadata={"help": "key of tool definitions for the chat template, in rows that have it"}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "render prompts with the model's chat template; text is a user's message"}
    )
    apply_chat_template_kwargs: dict[str, JsonValue] = field(
        default_factory=dict[str, JsonValue],
        metadata={"help": 'JSON object of variables for the chat template, such as {"enable_thinking": false}'},
    )
    rollout_shuffle: bool = field(
        default=False, metadata={"help": "read the rows of each epoch in an order of its own"}
    )
    rollout_seed: int = field(default=42, metadata={"help": "seed of the order of rows and of sampling"})
    rollout_max_prompt_len: int | None = field(
        default=None, metadata={"help": "prompts of more tokens than this are dropped and counted"}
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
        super().__init__(config.prompt_data, shuffle=config.rollout_shuffle, seed=config.rollout_seed)
        self._config = config
        self._tokenizer = tokenizer
        self._check_label = check_label
        if config.apply_chat_template:
            require_chat_template(tokenizer, where=config.prompt_data)

    def one_epoch(self) -> Iterator[Prompt]:
        """Every prompt once in the order of the file, for evaluation. Leaves the position as it is."""
        for row in range(len(self)):
            prompt = self._item(RowReference(epoch=0, row=row))
            if prompt is not None:
                yield prompt

    def _check(self, row: dict[str, JsonValue]) -> None:
        parsed = self._parse(row)
        if self._check_label is not None:
            self._check_label(parsed.label, parsed.metadata)

    def _make(self, row: dict[str, JsonValue], reference: RowReference) -> Prompt:
        config = self._config
        parsed = self._parse(row)
        text = self._render(parsed)
        # A template writes its own special tokens; raw text gets those that the tokenizer adds, if any.
        tokens = self._tokenizer.encode(text, add_special_tokens=not config.apply_chat_template)
        if not tokens:
            raise DataError(f"key {config.input_key!r}: expected a prompt, found an empty text")
        if config.rollout_max_prompt_len is not None and len(tokens) > config.rollout_max_prompt_len:
            raise TooLongError(len(tokens), config.rollout_max_prompt_len)
        return Prompt(
            row=reference.row,
            epoch=reference.epoch,
            tokens=np.array(tokens, dtype=np.int32),
            text=text,
            label=parsed.label,
            metadata=parsed.metadata,
        )

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
        metadata = row.get(config.metadata_key)
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f"key {config.metadata_key!r}: expected an object, found {describe(metadata)}")
        tools = check_tools(row.get(config.tool_key), key=config.tool_key)
        return _Row(messages=messages, label=label, metadata=metadata or {}, tools=tools)

    def _render(self, row: _Row) -> str:
        if not self._config.apply_chat_template:
            return str(row.messages[0]["content"])
        return render_text(
            self._tokenizer,
            row.messages,
            tools=row.tools,
            add_generation_prompt=True,
            template_arguments=self._config.apply_chat_template_kwargs,
        )
