import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_data import DataError, Sample, TrainBatch, pack, with_logprobs
from rl_data.balance import attention_length_of
from rl_data.testing import make_sample


def samples_of(lengths: list[int]) -> list[Sample]:
    """Samples of these lengths, half of each prompt, whose tokens are found in no other sample."""
    samples: list[Sample] = []
    start = 1
    for index, length in enumerate(lengths):
        prompt_length = max(length // 2, 1)
        mask = np.arange(length) >= prompt_length
        samples.append(
            Sample(
                group_id="g",
                index=index,
                tokens=np.arange(start, start + length, dtype=np.int32),
                prompt_length=prompt_length,
                loss_mask=mask,
                rollout_logprobs=np.where(mask, -0.5, 0.0).astype(np.float32),
            )
        )
        start += length
    return samples


def flat(batch: TrainBatch, field: str) -> np.ndarray:
    return np.concatenate([getattr(part, field) for rank in batch.microbatches for part in rank])


LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=60).filter(lambda lengths: max(lengths) > 1)


@given(
    lengths=LENGTHS,
    num_ranks=st.integers(1, 5),
    max_tokens=st.integers(64, 200),
    pad=st.sampled_from([1, 2, 8, 64]),
    reduction=st.sampled_from(["token", "sample"]),
)
def test_every_token_stands_once_under_the_budget_and_the_weights_sum_to_one(
    lengths: list[int], num_ranks: int, max_tokens: int, pad: int, reduction: str
):
    samples = samples_of(lengths)
    batch = pack(samples, num_ranks=num_ranks, max_tokens=max_tokens, pad_to_multiple=pad, loss_reduction=reduction)
    tokens = flat(batch, "tokens")
    assert sorted(tokens[tokens > 0]) == list(range(1, sum(lengths) + 1))
    assert len(batch.microbatches) == num_ranks
    assert len({len(rank) for rank in batch.microbatches}) == 1
    for rank in batch.microbatches:
        for part in rank:
            assert part.num_tokens <= max_tokens
            assert part.num_tokens % pad == 0
            for start, stop in zip(part.cu_seqlens[:-1], part.cu_seqlens[1:], strict=True):
                assert part.position_ids[start:stop].tolist() == list(range(stop - start))
    # Weights are float32: their sum is off by the rounding of up to 4000 terms.
    assert flat(batch, "loss_weights").astype(np.float64).sum() == pytest.approx(1.0, abs=1e-5)
    assert batch.num_tokens == sum(lengths)
    assert batch.num_loss_tokens == sum(sample.num_loss_tokens for sample in samples)


@given(
    lengths=LENGTHS,
    num_ranks=st.integers(1, 8),
    max_tokens=st.integers(64, 300),
    pad=st.sampled_from([1, 8, 64]),
    attention_length=st.sampled_from([None, 10.0, 1000.0]),
)
@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_the_loss_does_not_depend_on_the_split(
    reduction: str, lengths: list[int], num_ranks: int, max_tokens: int, pad: int, attention_length: float | None
):
    """A loss that is a function of token and advantage, summed with the weights, against the average by its meaning."""
    samples = samples_of(lengths)
    advantages = [float(np.cos(number)) for number in range(len(samples))]
    batch = pack(
        samples,
        num_ranks=num_ranks,
        max_tokens=max_tokens,
        loss_reduction=reduction,
        advantages=advantages,
        pad_to_multiple=pad,
        attention_length=attention_length,
    )
    losses = np.sin(flat(batch, "tokens")) * flat(batch, "advantages").astype(np.float64)
    loss = (losses * flat(batch, "loss_weights").astype(np.float64)).sum()
    of_samples = [
        np.sin(sample.tokens[sample.loss_mask]) * np.float32(advantage)
        for sample, advantage in zip(samples, advantages, strict=True)
    ]
    if reduction == "token":
        expected = np.concatenate(of_samples).mean()
    else:
        expected = np.mean([each.mean() for each in of_samples if len(each)])
    # Weights are float32, each off by at most 6e-8 of itself, and the losses are at most 1.
    assert loss == pytest.approx(expected, abs=1e-7)


def test_weights_are_the_hand_computed_ones():
    samples = samples_of([4, 2])  # 2 and 1 trained tokens
    by_token = pack(samples, num_ranks=1, max_tokens=6, loss_reduction="token").microbatches[0][0]
    assert by_token.loss_weights.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 0, 1 / 3])
    by_sample = pack(samples, num_ranks=1, max_tokens=6, loss_reduction="sample").microbatches[0][0]
    assert by_sample.loss_weights.tolist() == pytest.approx([0, 0, 1 / 4, 1 / 4, 0, 1 / 2])


def test_advantages_and_logprobs_stand_on_the_trained_tokens_alone():
    samples = samples_of([4, 2])
    advantages = [2.0, np.array([7.0, 3.0], dtype=np.float32)]
    part = pack(samples, num_ranks=1, max_tokens=6, advantages=advantages).microbatches[0][0]
    assert part.advantages.tolist() == [0, 0, 2, 2, 0, 3]
    assert part.rollout_logprobs.tolist() == [0, 0, -0.5, -0.5, 0, -0.5]
    assert part.cu_seqlens.tolist() == [0, 4, 6]


def test_padding_is_a_last_sequence_without_weight():
    part = pack(samples_of([3, 2]), num_ranks=1, max_tokens=8, pad_to_multiple=8, advantages=[1.0, 1.0]).microbatches[
        0
    ][0]
    assert part.cu_seqlens.tolist() == [0, 3, 5, 8]
    assert part.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    for field in (part.tokens, part.loss_weights, part.advantages, part.rollout_logprobs):
        assert not field[5:].any()


def test_a_rank_without_samples_gets_padding_alone():
    batch = pack(samples_of([4]), num_ranks=2, max_tokens=8, pad_to_multiple=4)
    assert [rank[0].num_tokens for rank in batch.microbatches] == [4, 4]
    assert not batch.microbatches[1][0].loss_weights.any()


def test_a_sample_without_trained_tokens_counts_for_nothing():
    untrained = make_sample(prompt_length=3, response_length=0)
    samples = [*samples_of([4]), untrained]
    weights = flat(pack(samples, num_ranks=1, max_tokens=10, loss_reduction="sample"), "loss_weights")
    assert weights.sum() == pytest.approx(1.0)
    assert weights.max() == pytest.approx(0.5)


def long_samples(num_samples: int, seed: int) -> list[Sample]:
    """Lengths of 100 to 8,192 tokens, as the project's bars for packing say."""
    return samples_of(np.random.default_rng(seed).integers(100, 8193, num_samples).tolist())


@pytest.mark.parametrize(("seed", "attention_length"), [(0, None), (1, None), (2, 20_000.0)])
def test_two_thousand_long_samples_are_balanced_over_eight_ranks(seed: int, attention_length: float | None):
    samples = long_samples(2048, seed)
    batch = pack(samples, num_ranks=8, max_tokens=9216, attention_length=attention_length)
    work = attention_work(batch, attention_length or np.inf)
    assert len(work) == 8
    assert work.max() / work.mean() <= 1.02
    assert len({len(rank) for rank in batch.microbatches}) == 1
    assert batch.num_tokens == sum(len(sample.tokens) for sample in samples)
    tokens = flat(batch, "tokens")  # 0: padding, which a micro-batch without samples has
    assert np.array_equal(np.sort(tokens[tokens > 0]), np.arange(1, batch.num_tokens + 1))
    # No micro-batch too many: as many as the tokens fill to 90 %.
    tokens_of_ranks = attention_work(batch, np.inf)
    assert len(batch.microbatches[0]) <= np.ceil(tokens_of_ranks.max() / (0.9 * 9216))


def attention_work(batch: TrainBatch, attention_length: float) -> np.ndarray:
    """[R] length + length^2 / attention_length over the sequences of each rank."""
    lengths = [np.concatenate([np.diff(part.cu_seqlens) for part in rank]).astype(float) for rank in batch.microbatches]
    return np.array([(each + each**2 / attention_length).sum() for each in lengths])


def test_work_with_attention_is_balanced_where_asked_for():
    lengths = [8000] * 2 + [500] * 64
    samples = samples_of(lengths)
    by_tokens = pack(samples, num_ranks=4, max_tokens=16000)
    by_work = pack(samples, num_ranks=4, max_tokens=16000, attention_length=8000.0)
    assert attention_work(by_tokens, 8000.0).max() / attention_work(by_tokens, 8000.0).mean() > 1.1
    assert attention_work(by_work, 8000.0).max() / attention_work(by_work, 8000.0).mean() <= 1.05


@given(lengths=LENGTHS, num_ranks=st.integers(1, 5), attention_length=st.floats(1.0, 1e4))
def test_the_balance_by_work_loses_no_token_and_changes_no_weight(
    lengths: list[int], num_ranks: int, attention_length: float
):
    samples = samples_of(lengths)
    batch = pack(samples, num_ranks=num_ranks, max_tokens=100, attention_length=attention_length)
    assert sorted(flat(batch, "tokens")[flat(batch, "tokens") > 0]) == list(range(1, sum(lengths) + 1))
    assert all(part.num_tokens <= 100 for rank in batch.microbatches for part in rank)
    by_tokens = pack(samples, num_ranks=num_ranks, max_tokens=100)
    of_token = dict(zip(flat(by_tokens, "tokens"), flat(by_tokens, "loss_weights"), strict=True))
    # Token 0 is padding, which a micro-batch without samples has, whatever the balance.
    weights = dict(zip(flat(batch, "tokens"), flat(batch, "loss_weights"), strict=True))
    assert {**weights, 0: 0.0} == {**of_token, 0: 0.0}
    # The largest first, to where there is least: no more than one sample above the mean.
    largest = max(length + length**2 / attention_length for length in lengths)
    work = attention_work(batch, attention_length)
    assert work.max() <= work.mean() + largest + 1e-6


def test_the_length_at_which_attention_costs_as_much_as_the_rest_by_hand():
    config = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "intermediate_size": 16,
        "vocab_size": 100,
    }
    # A layer: queries and output 2 * 8 * 8, keys and values 2 * 8 * 4, gate, up and down 3 * 8 * 16. The head: 8 * 100.
    weights = 3 * (128 + 64 + 384) + 800
    assert attention_length_of(config) == weights / (3 * 2 * 4)
    with pytest.raises(DataError, match="model config: expected vocab_size as a number above 0, got None"):
        attention_length_of({**config, "vocab_size": None})


def test_four_thousand_long_samples_pack_in_under_a_second():
    samples = long_samples(4096, seed=1)
    start = time.process_time()
    pack(samples, num_ranks=8, max_tokens=9216)
    assert time.process_time() - start < 1.0


def test_equal_samples_give_an_equal_batch():
    samples = samples_of([5, 9, 9, 3, 9, 1, 4])
    first, second = (pack(samples, num_ranks=2, max_tokens=18) for _ in range(2))
    assert [[part.tokens.tolist() for part in rank] for rank in first.microbatches] == [
        [part.tokens.tolist() for part in rank] for rank in second.microbatches
    ]


def test_samples_that_cannot_be_packed_are_named():
    with pytest.raises(DataError, match="sample g/1 has 9 tokens, more than the 8 that a micro-batch may have"):
        pack(samples_of([4, 9]), num_ranks=1, max_tokens=8)
    with pytest.raises(DataError, match="sample g/0 has 7 tokens, more than the 4"):
        pack(samples_of([7]), num_ranks=1, max_tokens=7, pad_to_multiple=4)
    with pytest.raises(DataError, match="2 samples without a token to train"):
        pack([make_sample(response_length=0)] * 2, num_ranks=1, max_tokens=8)
    with pytest.raises(DataError, match="sample 0-0/0: its first token is to be trained"):
        pack([make_sample(prompt_length=0)], num_ranks=1, max_tokens=8)
    with pytest.raises(DataError, match="expected an advantage for each of 2 samples, got 1"):
        pack(samples_of([2, 2]), num_ranks=1, max_tokens=8, advantages=[1.0])
    with pytest.raises(DataError, match=r"sample g/0: expected one advantage or \(4,\), got shape \(3,\)"):
        pack(samples_of([4]), num_ranks=1, max_tokens=8, advantages=[np.zeros(3, dtype=np.float32)])
    with pytest.raises(DataError, match="pack: expected attention_length above 0, got -1"):
        pack(samples_of([4]), num_ranks=1, max_tokens=8, attention_length=-1.0)
    with pytest.raises(DataError, match="pack: expected loss_reduction 'token' or 'sample', got 'mean'"):
        pack(samples_of([4]), num_ranks=1, max_tokens=8, loss_reduction="mean")
    with pytest.raises(DataError, match="expected num_ranks and pad_to_multiple of at least 1, got 0, 1"):
        pack(samples_of([4]), num_ranks=0, max_tokens=8)


def test_logprobs_of_the_trainer_are_put_beside_the_tokens():
    batch = pack(samples_of([4, 4, 2]), num_ranks=2, max_tokens=4)
    logprobs = [[-part.tokens.astype(np.float32) for part in rank] for rank in batch.microbatches]
    with_old = with_logprobs(batch, old=logprobs)
    both = with_logprobs(with_old, ref=logprobs)
    for rank in both.microbatches:
        for part in rank:
            assert part.old_logprobs.tolist() == part.ref_logprobs.tolist() == (-part.tokens).tolist()
    assert all(part.ref_logprobs is None for rank in with_old.microbatches for part in rank)
