"""For tests: small real samples, groups and tokenizers, and the contract that sources keep."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from rl_data.json import JsonValue
from rl_data.prompt import Prompt
from rl_data.sample import FinishReason, PolicyVersion, Sample, SampleGroup, VersionSpan
from rl_data.tokenizer import Tokenizer

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""The frame of Qwen's templates, without tools and thinking."""


class BatchSource(Protocol):
    """What `PromptSource` and `ConversationSource` promise; `check_source` holds an implementation to it."""

    def __len__(self) -> int:
        """Rows of one epoch."""
        ...

    def next_batch(self, num_items: int) -> Sequence[Any]:
        """The next items."""
        ...

    def state_dict(self) -> dict[str, JsonValue]:
        """Where the source stands."""
        ...

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Goes on where the state was taken."""
        ...


def check_source(make_source: Callable[[], BatchSource]) -> None:
    """The contract of a source, for a small file of which no row is dropped.

    Every row comes once an epoch, also where batches reach over its end; two sources of one configuration agree; and a
    source that loads a state, which may have been through JSON, goes on as the saved one does.

    Args:
        make_source: gives a new source at its beginning.

    Raises:
        AssertionError: naming what does not hold.
    """
    num_rows = len(make_source())
    whole = [_identity(item) for item in make_source().next_batch(3 * num_rows)]
    for epoch in range(3):
        rows = {row for _, row in whole[epoch * num_rows : (epoch + 1) * num_rows]}
        assert len(rows) == num_rows, f"epoch {epoch}: {num_rows - len(rows)} rows are missing or come twice"
        assert {number for number, _ in whole[epoch * num_rows : (epoch + 1) * num_rows]} == {epoch}

    source = make_source()
    in_pieces: list[tuple[int, int]] = []
    while len(in_pieces) + 2 <= len(whole):
        resumed = make_source()
        resumed.load_state_dict(msgspec.json.decode(msgspec.json.encode(source.state_dict())))
        batch = [_identity(item) for item in source.next_batch(2)]
        assert batch == [_identity(item) for item in resumed.next_batch(2)], "a resumed source gives other items"
        in_pieces += batch
    assert in_pieces == whole[: len(in_pieces)], "items depend on how large the batches are"


def _identity(item: Prompt | Sample) -> tuple[int, int]:
    """Epoch and row."""
    epoch, row = item.group_id.split("-")
    return int(epoch), int(row)


def make_sample(
    *,
    group_id: str = "0-0",
    index: int = 0,
    prompt_length: int = 3,
    response_length: int = 4,
    reward: float | None = None,
    policy_version: PolicyVersion | None = 1,
    finish_reason: FinishReason = FinishReason.STOP,
    label: str | None = None,
    metadata: dict[str, JsonValue] | None = None,
) -> Sample:
    """A sample with plausible contents that depend on `group_id` and `index` alone; the whole response is trained.

    Args:
        policy_version: of the whole response; None: no span, as in supervised data.
    """
    length = prompt_length + response_length
    random = np.random.default_rng(np.frombuffer(f"{group_id}/{index}".encode(), dtype=np.uint8).tolist())
    mask = np.arange(length) >= prompt_length
    spans = (VersionSpan(prompt_length, length, policy_version),) if policy_version is not None and mask.any() else ()
    return Sample(
        group_id=group_id,
        index=index,
        tokens=random.integers(0, 256, length, dtype=np.int32),
        prompt_length=prompt_length,
        loss_mask=mask,
        rollout_logprobs=np.where(mask, -random.exponential(1.0, length), 0.0).astype(np.float32),
        spans=spans,
        finish_reason=finish_reason,
        reward=reward,
        response_text=f"response {index}",
        label=label,
        metadata=metadata or {},
    )


def make_group(
    group_id: str = "0-0", *, rewards: Sequence[float | None] = (1.0, 0.0), policy_version: PolicyVersion = 1
) -> SampleGroup:
    """A group with one sample a reward."""
    samples = tuple(
        make_sample(group_id=group_id, index=index, reward=reward, policy_version=policy_version)
        for index, reward in enumerate(rewards)
    )
    return SampleGroup(group_id=group_id, samples=samples)


def tiny_tokenizer(
    folder: str | Path | None = None, *, chat_template: str = CHATML_TEMPLATE, joined: Sequence[str] = ()
) -> Tokenizer:
    """A byte-level tokenizer of 259 tokens, one a byte and the special tokens, with a chat template like Qwen's.

    Args:
        folder: where to save it as Hugging Face files, if anywhere.
        joined: texts of several bytes that are one token each wherever they occur, such as two line ends.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    raw_tokenizers = cast(Any, tokenizers)  # its stubs leave most types open
    byte_level = raw_tokenizers.pre_tokenizers.ByteLevel
    alphabet: list[str] = sorted(byte_level.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    pre_tokenizer = byte_level(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for text in joined:
        ((symbols, _),) = pre_tokenizer.pre_tokenize_str(text)
        merges += [(symbols[:length], symbols[length]) for length in range(1, len(symbols))]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    raw = raw_tokenizers.Tokenizer(raw_tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    raw.pre_tokenizer = pre_tokenizer
    raw.decoder = raw_tokenizers.decoders.ByteLevel()
    raw.add_special_tokens([raw_tokenizers.AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = chat_template
    if folder is not None:
        tokenizer.save_pretrained(str(folder))
    return cast(Tokenizer, tokenizer)
