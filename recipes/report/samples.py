"""The samples of a run that its page shows, cut to a size that a browser opens at once.

Everything here comes from model output or data files and is handed on as data, never as markup.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipes.errors import UsageError
from recipes.report.lines import whole_lines
from recipes.report.tokens import TokenTexts
from rl_data import RLDataError, Sample
from rl_data.wire import decode_sample

_MAX_STEPS = 40
_MAX_SAMPLES_PER_STEP = 16
_MAX_BYTES = 2_500_000
_HEAD_TOKENS = 200
_TAIL_TOKENS = 100
_MAX_PROMPT_CHARS = 4000


class ShownSample(msgspec.Struct, frozen=True, kw_only=True):
    """One response. R = tokens shown."""

    index: int
    reward: float | None
    finish_reason: str
    error: str | None
    policy_versions: list[int]
    length: int
    """Tokens of the whole response."""
    tokens: list[int]
    """[R] positions in `ShownSamples.token_texts`."""
    logprobs: list[float | None]
    """[R] log-probabilities when drawn, with three decimals; None where the policy did not write the token."""
    gap_after: int | None
    """After this many of `tokens` the middle of the response is left out; None where all is there."""


class ShownGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one prompt."""

    group_id: str
    prompt: str
    label: str | None
    samples: list[ShownSample]


class ShownStep(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the samples that a step was trained on."""

    step: int
    groups: list[ShownGroup]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSamples:
    """What the viewer of samples gets."""

    steps: list[ShownStep]
    token_texts: list[str]
    notes: list[str]
    """What was left out and why, one sentence each."""


def select_samples(path: Path, token_texts: TokenTexts) -> ShownSamples:
    """Reads samples.jsonl twice: for the steps it holds, then for the samples to show.

    A file that is not there gives nothing to show. Memory is bounded by what is shown.

    Raises:
        UsageError: at a line that is not a sample or has no step in its metadata.
    """
    if not path.is_file():
        return ShownSamples(steps=[], token_texts=[], notes=["The run has no samples.jsonl."])
    counts: dict[int, int] = {}
    for step, _line, _where in _lines(path):
        counts[step] = counts.get(step, 0) + 1
    shown = _read_steps(path, _spread(sorted(counts), _MAX_STEPS), token_texts)
    while len(shown) > 1 and len(msgspec.json.encode(shown)) > _MAX_BYTES:
        shown = [shown[index] for index in _spread(range(len(shown)), len(shown) // 2)]
    return ShownSamples(steps=shown, token_texts=token_texts.texts, notes=_notes(counts, shown, token_texts))


class _Metadata(msgspec.Struct):
    step: int


class _Marked(msgspec.Struct):
    metadata: _Metadata


def _lines(path: Path) -> Iterator[tuple[int, bytes, str]]:
    """Step, line, and where it stands."""
    decoder = msgspec.json.Decoder(_Marked)
    for where, line in whole_lines(path):
        try:
            yield decoder.decode(line).metadata.step, line, where
        except ValueError as error:
            raise UsageError(f"{where}: expected a sample with its step in metadata: {error}") from error


def _spread(items: Sequence[int], num: int) -> list[int]:
    """At most `num` of the items, evenly spread; the last is always among them, the first where there is room."""
    if len(items) <= num:
        return list(items)
    if num == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (num - 1))] for index in range(num)]


def _read_steps(path: Path, steps: Sequence[int], token_texts: TokenTexts) -> list[ShownStep]:
    """The first samples of each of the steps, group by group."""
    by_step: dict[int, list[Sample]] = {step: [] for step in steps}
    for step, line, where in _lines(path):
        samples = by_step.get(step)
        if samples is not None and len(samples) < _MAX_SAMPLES_PER_STEP:
            try:
                samples.append(decode_sample(line, where=where))
            except RLDataError as error:
                raise UsageError(str(error)) from error
    return [ShownStep(step=step, groups=_groups(samples, token_texts)) for step, samples in by_step.items()]


def _groups(samples: Sequence[Sample], token_texts: TokenTexts) -> list[ShownGroup]:
    by_group: dict[str, list[Sample]] = {}
    for sample in samples:
        by_group.setdefault(sample.group_id, []).append(sample)
    return [
        ShownGroup(
            group_id=group_id,
            prompt=_shorten(token_texts.decode(members[0].tokens[: members[0].prompt_length].tolist())),
            label=members[0].label,
            samples=[_sample(sample, token_texts) for sample in members],
        )
        for group_id, members in by_group.items()
    ]


def _sample(sample: Sample, token_texts: TokenTexts) -> ShownSample:
    start, stop = sample.prompt_length, len(sample.tokens)
    is_cut = stop - start > _HEAD_TOKENS + _TAIL_TOKENS
    kept = [*range(start, start + _HEAD_TOKENS), *range(stop - _TAIL_TOKENS, stop)] if is_cut else range(start, stop)
    return ShownSample(
        index=sample.index,
        reward=sample.reward,
        finish_reason=sample.finish_reason.value,
        error=_shorten(str(sample.metadata["error"])) if "error" in sample.metadata else None,
        policy_versions=sorted({span.policy_version for span in sample.spans}),
        length=sample.response_length,
        tokens=[token_texts.position(int(sample.tokens[t])) for t in kept],
        logprobs=[round(float(sample.rollout_logprobs[t]), 3) if sample.loss_mask[t] else None for t in kept],
        gap_after=_HEAD_TOKENS if is_cut else None,
    )


def _shorten(text: str) -> str:
    left_out = len(text) - _MAX_PROMPT_CHARS
    if left_out <= 0:
        return text
    half = _MAX_PROMPT_CHARS // 2
    return f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"


def _notes(counts: Mapping[int, int], shown: Sequence[ShownStep], token_texts: TokenTexts) -> list[str]:
    notes: list[str] = []
    if not counts:
        notes.append("The run's samples.jsonl is empty.")
    if len(shown) < len(counts):
        notes.append(f"{len(shown)} of {len(counts)} steps are shown, evenly spread.")
    num_written = sum(counts[step.step] for step in shown)
    samples = [sample for step in shown for group in step.groups for sample in group.samples]
    if len(samples) < num_written:
        notes.append(f"Of these steps' {num_written} samples {len(samples)} are shown: each step's first.")
    num_cut = sum(sample.gap_after is not None for sample in samples)
    if num_cut:
        notes.append(f"{num_cut} long responses lack their middle: {_HEAD_TOKENS} first, {_TAIL_TOKENS} last tokens.")
    if counts and not token_texts.has_tokenizer:
        notes.append(
            "No tokenizer.json is in the run's model folder or --hf-checkpoint's, so tokens are shown by their ids."
        )
    return notes
