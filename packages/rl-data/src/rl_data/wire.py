"""Samples as JSON lines, for files and for other processes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rl_data.errors import DataError, SchemaVersionError
from rl_data.json import JsonValue
from rl_data.sample import FinishReason, Sample, SampleGroup, VersionSpan

SCHEMA_VERSION = 1
"""Version of what `encode_sample` writes; a change of `Sample` that old readers would misread raises it."""


class _SampleRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A sample's line. Numbers survive exactly: a float32 is written as the float64 of the same value."""

    schema_version: int
    group_id: str
    index: int
    tokens: list[int]
    prompt_length: int
    loss_mask: list[bool]
    rollout_logprobs: list[float]
    spans: list[tuple[int, int, int]]
    finish_reason: FinishReason
    reward: float | None
    response_text: str
    label: str | None
    metadata: dict[str, Any]


class _Version(msgspec.Struct):
    schema_version: int | None = None


def encode_sample(sample: Sample) -> bytes:
    """The sample as one line of JSON, without a line end.

    Raises:
        DataError: if a number is not finite, for JSON has no such numbers.
    """
    if not np.isfinite(sample.rollout_logprobs).all() or not np.isfinite(sample.reward or 0.0):
        raise DataError(f"sample {sample.group_id}/{sample.index}: a log-probability or the reward is not finite")
    return msgspec.json.encode(
        _SampleRecord(
            schema_version=SCHEMA_VERSION,
            group_id=sample.group_id,
            index=sample.index,
            tokens=sample.tokens.tolist(),
            prompt_length=sample.prompt_length,
            loss_mask=sample.loss_mask.tolist(),
            rollout_logprobs=sample.rollout_logprobs.tolist(),
            spans=[(span.start, span.stop, span.policy_version) for span in sample.spans],
            finish_reason=sample.finish_reason,
            reward=sample.reward,
            response_text=sample.response_text,
            label=sample.label,
            metadata=dict(sample.metadata),
        )
    )


def decode_sample(line: bytes | str, *, where: str = "sample") -> Sample:
    """The sample of a line.

    Args:
        where: begins the message of an error.

    Raises:
        SchemaVersionError: if the line was written under another schema version.
        DataError: if it is not a sample's line.
    """
    try:
        version = msgspec.json.decode(line, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(f"{where}: expected schema_version {SCHEMA_VERSION}, found {version}")
        record = msgspec.json.decode(line, type=_SampleRecord)
        return Sample(
            group_id=record.group_id,
            index=record.index,
            tokens=np.array(record.tokens, dtype=np.int32),
            prompt_length=record.prompt_length,
            loss_mask=np.array(record.loss_mask, dtype=np.bool_),
            rollout_logprobs=np.array(record.rollout_logprobs, dtype=np.float32),
            spans=tuple(VersionSpan(*span) for span in record.spans),
            finish_reason=record.finish_reason,
            reward=record.reward,
            response_text=record.response_text,
            label=record.label,
            metadata=record.metadata,
        )
    except SchemaVersionError:
        raise
    except ValueError as error:  # msgspec's errors, and those of Sample's own checks
        raise DataError(f"{where}: not a sample: {error}") from error


def sample_to_json(sample: Sample) -> JsonValue:
    """The sample as a JSON value, for states that hold samples beside other things."""
    return msgspec.json.decode(encode_sample(sample))


def sample_from_json(value: JsonValue, *, where: str = "sample") -> Sample:
    """The inverse of `sample_to_json`; raises like `decode_sample`."""
    return decode_sample(msgspec.json.encode(value), where=where)


def append_samples(path: str | Path, samples: Iterable[Sample]) -> None:
    """Adds a line for each sample at the end of the file, which is made if there is none."""
    lines = b"".join(encode_sample(sample) + b"\n" for sample in samples)
    with Path(path).open("ab") as file:
        file.write(lines)


def read_samples(path: str | Path) -> Iterator[Sample]:
    """The samples of a file, one after the other.

    Raises:
        SchemaVersionError: at a line of another schema version.
        DataError: if the file cannot be read, or at a line that is not a sample.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    yield decode_sample(line, where=f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def group_to_json(group: SampleGroup) -> JsonValue:
    """The group as a JSON value."""
    return {"group_id": group.group_id, "samples": [sample_to_json(sample) for sample in group.samples]}


def group_from_json(value: JsonValue, *, where: str = "group") -> SampleGroup:
    """The inverse of `group_to_json`; raises like `decode_sample`."""
    if not isinstance(value, dict) or not isinstance(value.get("group_id"), str):
        raise DataError(f"{where}: expected an object with group_id and samples")
    samples = value.get("samples")
    if not isinstance(samples, list):
        raise DataError(f"{where}: expected samples as a list")
    decoded = tuple(sample_from_json(each, where=f"{where}, sample {number}") for number, each in enumerate(samples))
    try:
        return SampleGroup(group_id=str(value["group_id"]), samples=decoded)
    except ValueError as error:
        raise DataError(f"{where}: not a group: {error}") from error
