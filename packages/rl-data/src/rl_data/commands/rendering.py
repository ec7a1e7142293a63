"""Rows as training sees them: what the sources make of them that the recipes read with."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_data.commands.flags import BOTH, OF_CONVERSATIONS, OF_PROMPTS
from rl_data.conversations import ConversationDataConfig, ConversationSource
from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.order import RowReference
from rl_data.prompts import PromptDataConfig, PromptSource
from rl_data.sample import Sample
from rl_data.source import RowFate, RowNote
from rl_data.tokenizer import Tokenizer

_NUM_NAMED = 10


class RenderedRow(NamedTuple):
    """What training makes of a row. T = tokens."""

    tokens: NDArray[np.int32]
    """[T] empty where the row is left out."""
    loss_mask: NDArray[np.bool_]
    """[T] True on what is trained: a conversation's answers, nothing of a prompt."""
    note: RowNote | None
    """Why the row is left out, or that it is cut."""
    label: str | None = None
    """Of a prompt: the reference answer, and, in `metadata`, what graders get beside it."""
    metadata: Mapping[str, JsonValue] = MappingProxyType({})


class RenderedRows:
    """The rows of a source, as training sees them.

    Args:
        source: what a recipe would read.
        hint: what ends the message about a bad row.
    """

    def __init__(self, source: ConversationSource | PromptSource, *, hint: str = "") -> None:
        self._source = source
        self._hint = hint
        self.counts: Counter[RowFate] = Counter()
        """Rows that were left out or cut so far, by `lengths`."""
        self.notes: Mapping[RowFate, list[str]] = {fate: [] for fate in RowFate}
        """Where the first ten of each are, and why."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._source)

    def render(self, row: int) -> RenderedRow:
        """What becomes of a row.

        Raises:
            DataError: if the row is bad.
        """
        rendered = self._made(row)
        if rendered.note is not None and rendered.note.fate is RowFate.BAD:
            raise DataError(rendered.note.message + self._hint)
        return rendered

    def lengths(self, *, max_bad_rows: float) -> Iterator[tuple[int, int]]:
        """Number of tokens, and of trained tokens, of each row that is not left out; the others are counted.

        Raises:
            DataError: at a bad row that is one too many; if every row is left out.
        """
        num_given = 0
        for row in range(len(self)):
            rendered = self._made(row)
            if rendered.note is not None:
                self._count(rendered.note, max_bad_rows)
            if len(rendered.tokens):
                num_given += 1
                yield len(rendered.tokens), int(rendered.loss_mask.sum())
        if num_given == 0:
            reasons = ", ".join(f"{count} {fate}" for fate, count in self.counts.items())
            last = next(notes[-1] for notes in self.notes.values() if notes)
            raise DataError(f"none of {len(self)} rows is left: {reasons}; such as {last}{self._hint}")

    def _made(self, row: int) -> RenderedRow:
        made = self._source.made(RowReference(epoch=0, row=row))
        item = made.item
        if item is None:
            return RenderedRow(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.bool_), made.note)
        loss_mask = item.loss_mask if isinstance(item, Sample) else np.zeros(len(item.tokens), dtype=np.bool_)
        return RenderedRow(item.tokens, loss_mask, made.note, item.label, item.metadata)

    def _count(self, note: RowNote, max_bad_rows: float) -> None:
        self.counts[note.fate] += 1
        if len(self.notes[note.fate]) < _NUM_NAMED:
            self.notes[note.fate].append(note.message)
        num_bad = self.counts[RowFate.BAD]
        if note.fate is RowFate.BAD and num_bad > max_bad_rows:
            if num_bad == 1:
                raise DataError(note.message + self._hint)
            raise DataError(
                f"{num_bad} of {len(self)} rows are bad, more than let pass; the last: {note.message}{self._hint}"
            )


def open_rendered(
    arguments: argparse.Namespace, tokenizer: Tokenizer, *, on_bad_row: Literal["stop", "skip"]
) -> RenderedRows:
    """The rows that the flags name, read as they say.

    Args:
        on_bad_row: what a first row does that is no JSON object, for the first one tells the schema.

    Raises:
        DataError: if flags do not go together, the data is missing or empty, or the chat template is of no use.
    """
    reading = {"prompt_data": tuple(arguments.source), "num_data_workers": 0, "on_bad_row": on_bad_row}
    given = {**reading, **_given(arguments, ("input_key", *BOTH))}
    if arguments.kind == "prompts":
        return RenderedRows(PromptSource(PromptDataConfig(**given, **_given(arguments, OF_PROMPTS)), tokenizer))
    hint = "" if arguments.kind else " (read as a conversation; prompts need --as prompts)"
    config = ConversationDataConfig(**given, **_given(arguments, OF_CONVERSATIONS))
    return RenderedRows(ConversationSource(config, tokenizer), hint=hint)


def check_flags(arguments: argparse.Namespace) -> None:
    """Does nothing if every flag of `flags.add_rendering` has an effect.

    Raises:
        DataError: naming the first flag that has none.
    """
    of_prompts = _given(arguments, OF_PROMPTS)
    if arguments.tokenizer is None:
        if arguments.kind:
            raise DataError(f"--as {arguments.kind}: it has no effect without --tokenizer")
        _refuse(_given(arguments, (*BOTH, *OF_CONVERSATIONS, *OF_PROMPTS)), "it has no effect without --tokenizer")
    elif arguments.kind != "prompts":
        _refuse(of_prompts, "conversations are not read by it; prompts need --as prompts")
    else:
        reason = "prompts are not read by it; conversations are read without --as prompts"
        _refuse(_given(arguments, OF_CONVERSATIONS), reason)
        if "apply_chat_template" not in of_prompts:
            reason = "it has no effect on prompts without --apply-chat-template"
            _refuse(_given(arguments, ("apply_chat_template_kwargs",)), reason)
    _check_lengths(arguments)


def _check_lengths(arguments: argparse.Namespace) -> None:
    """In training they have an effect without, for there the model and the batch set a length as well."""
    for how, length in (("on_long_conversation", "max_length"), ("on_long_prompt", "rollout_max_prompt_len")):
        if getattr(arguments, length) is None:
            _refuse(_given(arguments, (how,)), f"it has no effect without --{length.replace('_', '-')}")


def _given(arguments: argparse.Namespace, names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Those of the fields whose flags are given."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _refuse(given: Mapping[str, Any], reason: str) -> None:
    for name in given:
        raise DataError(f"--{name.replace('_', '-')}: {reason}")
