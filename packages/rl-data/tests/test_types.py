import numpy as np
import pytest

from rl_data import FinishReason, Microbatch, Prompt, Sample, SampleGroup, TrainBatch, VersionSpan
from rl_data.testing import make_group, make_sample


def sample_of(length: int = 5, **changes: object) -> Sample:
    fields: dict[str, object] = {
        "group_id": "0-0",
        "index": 0,
        "tokens": np.zeros(length, dtype=np.int32),
        "prompt_length": 2,
        "loss_mask": np.arange(length) >= 2,
        "rollout_logprobs": np.zeros(length, dtype=np.float32),
    }
    return Sample(**{**fields, **changes})


def test_a_sample_refuses_arrays_of_another_length_than_its_tokens():
    with pytest.raises(ValueError, match=r"sample 0-0/0: expected loss_mask of shape \(5,\), got \(4,\)"):
        sample_of(loss_mask=np.zeros(4, dtype=np.bool_))


def test_a_sample_refuses_a_trained_prompt_of_a_policy():
    with pytest.raises(ValueError, match="loss_mask is True inside the prompt's 2 tokens"):
        sample_of(loss_mask=np.ones(5, dtype=np.bool_), spans=(VersionSpan(2, 5, 1),))


@pytest.mark.parametrize(
    "spans", [(VersionSpan(1, 3, 1),), (VersionSpan(2, 6, 1),), (VersionSpan(2, 4, 1), VersionSpan(3, 5, 2))]
)
def test_a_sample_refuses_spans_that_overlap_or_leave_the_response(spans: tuple[VersionSpan, ...]):
    with pytest.raises(ValueError, match="overlaps another or leaves"):
        sample_of(spans=spans)


def test_a_failed_sample_says_why_and_the_original_stays_as_it_was():
    sample = make_sample()
    failed = sample.with_error("grader timed out")
    assert failed.finish_reason is FinishReason.ERROR
    assert failed.metadata == {"error": "grader timed out"}
    assert sample.finish_reason is FinishReason.STOP


def test_a_group_refuses_samples_of_another_group_and_unscored_rewards():
    with pytest.raises(ValueError, match=r"group a: holds samples of \['b'\]"):
        SampleGroup(group_id="a", samples=(make_sample(group_id="b"),))
    with pytest.raises(ValueError, match=r"samples \[1\] have no reward"):
        _ = make_group(rewards=(1.0, None)).rewards


def test_a_prompt_refuses_no_tokens():
    with pytest.raises(ValueError, match="expected at least one token"):
        Prompt(row=1, epoch=0, tokens=np.array([], dtype=np.int32), text="")


def microbatch(cu_seqlens: list[int]) -> Microbatch:
    floats = np.zeros(4, dtype=np.float32)
    return Microbatch(
        tokens=np.zeros(4, dtype=np.int64),
        position_ids=np.zeros(4, dtype=np.int64),
        cu_seqlens=np.array(cu_seqlens, dtype=np.int32),
        loss_weights=floats,
        advantages=floats,
        rollout_logprobs=floats,
    )


@pytest.mark.parametrize("cu_seqlens", [[0, 3], [1, 4], [0, 2, 2, 4]])
def test_a_microbatch_refuses_sequences_that_do_not_tile_it(cu_seqlens: list[int]):
    with pytest.raises(ValueError, match="does not rise from 0 to 4"):
        microbatch(cu_seqlens)


def test_a_batch_refuses_ranks_with_different_numbers_of_microbatches():
    one = microbatch([0, 4])
    with pytest.raises(ValueError, match="expected one number of micro-batches on every rank"):
        TrainBatch(microbatches=((one,), (one, one)), num_samples=3, num_loss_tokens=0, num_tokens=12)
