from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_data import DataError, FinishReason, Sample, SchemaVersionError, VersionSpan
from rl_data.testing import make_sample
from rl_data.wire import append_samples, decode_sample, encode_sample, read_samples

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    length=st.integers(0, 20),
    logprob=st.floats(-(2.0**100), 0, width=32),
    reward=st.none() | st.floats(-10, 10),
    text=st.text(),
    label=st.none() | st.text(),
    metadata=st.dictionaries(st.text(), JSON, max_size=3),
    finish_reason=st.sampled_from(FinishReason),
)
def test_a_sample_survives_its_line_exactly(
    length: int,
    logprob: float,
    reward: float | None,
    text: str,
    label: str | None,
    metadata: dict[str, object],
    finish_reason: FinishReason,
):
    sample = Sample(
        group_id="3-7",
        index=2,
        tokens=np.arange(length, dtype=np.int32),
        prompt_length=0,
        loss_mask=np.arange(length) % 2 == 0,
        rollout_logprobs=np.full(length, logprob, dtype=np.float32),
        spans=(VersionSpan(0, length, 4),) if length else (),
        finish_reason=finish_reason,
        reward=reward,
        response_text=text,
        label=label,
        metadata=metadata,
    )
    line = encode_sample(sample)
    assert b"\n" not in line
    back = decode_sample(line)
    for name in ("tokens", "loss_mask", "rollout_logprobs"):
        before, after = getattr(sample, name), getattr(back, name)
        assert before.dtype == after.dtype
        assert before.tolist() == after.tolist()
    for name in ("group_id", "index", "prompt_length", "spans", "finish_reason", "reward", "response_text", "label"):
        assert getattr(sample, name) == getattr(back, name)
    assert back.metadata == metadata
    assert encode_sample(back) == line


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_schema_version_is_refused(version: int | None):
    record = {**msgspec.json.decode(encode_sample(make_sample())), "schema_version": version}
    with pytest.raises(SchemaVersionError, match=rf"expected schema_version 1, found {version}"):
        decode_sample(msgspec.json.encode(record))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not a sample"),
        (b'{"schema_version": 1, "group_id": "a"}', "missing required field"),
        (encode_sample(make_sample())[:-1] + b', "extra": 1}', "unknown field `extra`"),
        (
            encode_sample(make_sample()).replace(b'"prompt_length":3', b'"prompt_length":99'),
            "expected prompt_length in",
        ),
    ],
)
def test_a_line_that_is_no_sample_is_refused(line: bytes, message: str):
    with pytest.raises(DataError, match=message):
        decode_sample(line)


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(DataError, match="sample 0-0/0: a log-probability or the reward is not finite"):
        encode_sample(make_sample(reward=float("nan")))


def test_files_grow_by_appending_and_name_a_bad_line(tmp_path: Path):
    path = tmp_path / "samples.jsonl"
    append_samples(path, [make_sample(index=0), make_sample(index=1)])
    append_samples(path, [make_sample(index=2)])
    assert [sample.index for sample in read_samples(path)] == [0, 1, 2]
    with path.open("ab") as file:
        file.write(b'{"schema_version": 9}\n')
    with pytest.raises(SchemaVersionError, match=r"samples.jsonl:4: expected schema_version 1, found 9"):
        list(read_samples(path))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_samples(tmp_path / "no.jsonl"))
