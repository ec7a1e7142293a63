"""Chat templates: prompts as text, conversations as tokens with the mask of what the assistant wrote.

The mask is made from one rendering of the whole conversation. Where the assistant's turns lie in it is measured by
rendering the conversation again with those turns' contents replaced by a marker: whatever text then stands unchanged
before and after the marker belongs to the template or to others. Nothing in it depends on what a particular template
looks like, and content that contains a template's own strings cannot move the mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.messages import Message
from rl_data.tokenizer import Tokenizer, require_chat_template

type Tools = Sequence[Mapping[str, JsonValue]] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RenderedConversation:
    """A conversation as the model sees it. T = tokens."""

    text: str
    tokens: NDArray[np.int32]
    """[T] token ids of `text`."""
    loss_mask: NDArray[np.bool_]
    """[T] True on what the assistant wrote, the end-of-turn token of each of its turns included."""


def render_text(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Tools = None,
    add_generation_prompt: bool = False,
    template_arguments: Mapping[str, JsonValue] | None = None,
) -> str:
    """The conversation as text, through the tokenizer's chat template.

    Args:
        add_generation_prompt: whether to end where an answer of the assistant begins.
        template_arguments: variables of the template, such as enable_thinking.

    Raises:
        DataError: if the template refuses the conversation; the message is the template's own.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **(template_arguments or {}),
        )
    # A template is a program of the model's authors: it fails with whatever Jinja or Python raise in it.
    except (TemplateError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error
    if not isinstance(text, str):
        raise DataError(f"the chat template gave {type(text).__name__}, expected text")
    return text


class ConversationRenderer:
    """Renders conversations for one tokenizer, after learning how its template frames a turn of the assistant.

    Args:
        tokenizer: one with a chat template.
        template_arguments: variables of the template, such as enable_thinking.

    Raises:
        DataError: if no mask can be made safely with this template or tokenizer; the message says why.
    """

    def __init__(self, tokenizer: Tokenizer, *, template_arguments: Mapping[str, JsonValue] | None = None) -> None:
        require_chat_template(tokenizer, where="conversations")
        self._tokenizer = tokenizer
        self._template_arguments = dict(template_arguments or {})
        question: list[Message] = [{"role": "user", "content": "Question"}]
        before = self._render(question)
        generation = self._render(question, add_generation_prompt=True)
        marker = _unused_marker(question)
        probe = self._render([*question, {"role": "assistant", "content": marker}, *question])
        start = probe.find(marker)
        if start < 0 or not probe.startswith(before) or not generation.startswith(before):
            raise _unsafe("an assistant message does not simply follow what stands before it")
        # What stands before every answer, such as "<|im_start|>assistant\n", and what precedes a generated one:
        # the same; or, with some templates, the beginning of a thinking block too; or less, such as nothing where a
        # blank stands before answers, which the model then has to write.
        self._header = probe[len(before) : start]
        self._generation_prompt = generation[len(before) :]
        if not self._is_generated_as_read():
            raise _unsafe(f"answers are generated after {self._generation_prompt!r}, but read after {self._header!r}")
        self._end_of_turn = self._leading_special(probe[start + len(marker) :])
        self._check_pieces(before + self._header)

    def render(self, messages: Sequence[Message], *, tools: Tools = None) -> RenderedConversation:
        """Tokens and mask of a conversation.

        The text is cut where a turn of the assistant begins and ends, and the pieces are tokenized one by one: in
        generation, too, the prompt is tokenized up to exactly there, so no token reaches over the border.

        Raises:
            DataError: if there is no assistant message, or a turn cannot be located beyond doubt.
        """
        text = self._render(messages, tools)
        tokens: list[int] = []
        mask: list[bool] = []
        done = 0
        for start, stop in [*self._turns(messages, tools, text), (len(text), len(text))]:
            for piece, is_trained in ((text[done:start], False), (text[start:stop], True)):
                ids = self._encode(piece)
                tokens += ids
                mask += [is_trained] * len(ids)
            done = stop
        return RenderedConversation(
            text=text, tokens=np.array(tokens, dtype=np.int32), loss_mask=np.array(mask, dtype=np.bool_)
        )

    def _turns(self, messages: Sequence[Message], tools: Tools, text: str) -> list[tuple[int, int]]:
        """Character ranges of the assistant's turns, each with its end-of-turn token."""
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise DataError("expected an assistant message to train on, found none")
        spans: list[tuple[int, int]] = []
        for order, turn in enumerate(turns):
            # Text before an answer is known to be others' where it stays when this and all later answers change,
            # text after it where it stays when this and all earlier ones do.
            later = self._render_marked(messages, tools, turn, turns[order:])
            earlier = later if len(turns) == 1 else self._render_marked(messages, tools, turn, turns[: order + 1])
            start, stop = self._start(text, turn, later[0]), self._stop(text, turn, earlier[1])
            if not (spans[-1][1] if spans else 0) <= start < stop:
                raise _unsafe(f"message {turn} cannot be told from the turn before it")
            spans.append((start, stop))
        return spans

    def _start(self, text: str, turn: int, before: str) -> int:
        """Where the answer begins in `text`, given what stands before its marker."""
        header_at = before.rfind(self._header)
        start = header_at + len(self._header)
        # Between header and content a template may write an empty thinking block, but never the end of a turn.
        if header_at < 0 or self._end_of_turn in before[start:]:
            raise _unsafe(f"message {turn} has no header {self._header!r} of its own")
        if text[:start] != before[:start]:
            raise _unsafe(f"the text before message {turn} depends on what the assistant says in it or later")
        if text.startswith(self._generation_prompt, header_at):
            return header_at + len(self._generation_prompt)
        return start

    def _is_generated_as_read(self) -> bool:
        """Whether a generated answer begins where one that is read does, or a little before."""
        if self._generation_prompt.startswith(self._header):
            return True
        rest = self._header.removeprefix(self._generation_prompt)
        is_frame = any(special in rest for special in self._specials())
        return self._header.startswith(self._generation_prompt) and (bool(self._generation_prompt) or not is_frame)

    def _stop(self, text: str, turn: int, after: str) -> int:
        """Where the answer ends in `text`, given what stands after its marker."""
        if not after.startswith(self._end_of_turn):
            raise _unsafe(f"message {turn} is followed by {after[:40]!r}, expected {self._end_of_turn!r}")
        if not text.endswith(after):
            raise _unsafe(f"the text after message {turn} depends on what the assistant says in it or earlier")
        return len(text) - len(after) + len(self._end_of_turn)

    def _render_marked(
        self, messages: Sequence[Message], tools: Tools, turn: int, replaced: Sequence[int]
    ) -> tuple[str, str]:
        """The text before and after message `turn`, where the contents of the messages `replaced` are markers."""
        marker = _unused_marker(messages, tools)
        marked_messages = list(messages)
        for number in replaced:
            content = marker if number == turn else "Another answer."
            marked_messages[number] = {"role": "assistant", "content": content}
        before, *after = self._render(marked_messages, tools).split(marker)
        if len(after) != 1:
            raise _unsafe(f"message {turn} appears {len(after)} times, expected once")
        return before, after[0]

    def _leading_special(self, after: str) -> str:
        """The special token with which a turn ends."""
        found = max((special for special in self._specials() if after.startswith(special)), key=len, default="")
        if not found:
            raise _unsafe(
                f"an assistant message is followed by {after[:40]!r}, not by a special token: nothing would teach the "
                "model to stop"
            )
        return found

    def _specials(self) -> list[str]:
        return [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]

    def _check_pieces(self, prompt: str) -> None:
        """Raises if the pieces' tokens are not the whole's, as where a tokenizer puts a blank before each piece."""
        pieces = (prompt, f"An answer.{self._end_of_turn}", "\nmore")
        if self._encode("".join(pieces)) != [token for piece in pieces for token in self._encode(piece)]:
            raise DataError(
                "conversations: the tokenizer changes text at the start of a piece: no mask can be made safely"
            )

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []

    def _render(self, messages: Sequence[Message], tools: Tools = None, *, add_generation_prompt: bool = False) -> str:
        return render_text(
            self._tokenizer,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            template_arguments=self._template_arguments,
        )


def _unused_marker(messages: Sequence[Message], tools: Tools = None) -> str:
    """A word of letters and digits that occurs nowhere in the messages and the tools."""
    everything = f"{messages}{tools}"
    number = 0
    while (marker := f"MARKER{number}ANSWER") in everything:
        number += 1
    return marker


def _unsafe(reason: str) -> DataError:
    return DataError(f"this chat template cannot be masked safely: {reason}")
