"""Rewards to advantages: cases computed by hand, and an independent computation in plain Python."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_data import Sample, SampleGroup
from rl_train.algorithms import AlgorithmConfig, compute_advantages
from rl_train.algorithms.config import AdvantageEstimator
from rl_train.algorithms.reinforce_plus_plus import discounted_returns, whiten

# Advantages are computed in float64 and rounded once to float32 (relative error 6e-8).
FLOAT32 = {"rtol": 1e-6, "atol": 1e-6}
GROUP_BASELINE: list[AdvantageEstimator] = ["grpo", "dr_grpo", "gspo", "cispo", "rloo", "maxrl"]


def group_of(*rewards: float | None, name: str = "0-0", masks: list[list[int]] | None = None) -> SampleGroup:
    """A group with one prompt token and two trained tokens a sample, unless masks say otherwise."""
    masks = masks or [[0, 1, 1]] * len(rewards)
    samples = (
        Sample(
            group_id=name,
            index=index,
            tokens=np.arange(len(mask), dtype=np.int32),
            prompt_length=1,
            loss_mask=np.array(mask, dtype=bool),
            rollout_logprobs=np.zeros(len(mask), dtype=np.float32),
            reward=reward,
        )
        for index, (reward, mask) in enumerate(zip(rewards, masks, strict=True))
    )
    return SampleGroup(group_id=name, samples=tuple(samples))


def groups_of(*rewards: list[float]) -> list[SampleGroup]:
    return [group_of(*group, name=f"0-{row}") for row, group in enumerate(rewards)]


def signals(groups: list[SampleGroup], config: AlgorithmConfig) -> list[list[float]]:
    """The advantage of each sample's last token, which is trained in every sample made here."""
    return [[float(tokens[-1]) for tokens in group] for group in compute_advantages(groups, config)]


def test_grpo_divides_by_the_sample_standard_deviation():
    # mean 0.5; deviations +-0.5; variance 4 x 0.25 / 3, std 0.57735
    advantages = signals([group_of(1, 0, 0, 1)], AlgorithmConfig())[0]
    np.testing.assert_allclose(advantages, np.array([1, -1, -1, 1]) * 0.5 / (math.sqrt(1 / 3) + 1e-6), **FLOAT32)


@pytest.mark.parametrize("estimator", ["grpo", "gspo", "cispo"])
def test_without_the_deviation_grpo_only_centres(estimator):
    config = AlgorithmConfig(advantage_estimator=estimator, grpo_std_normalization=False)
    assert signals(groups_of([6, 3], [9, 12], [1]), config) == [[1.5, -1.5], [-1.5, 1.5], [0]]


def test_dr_grpo_only_centres():
    assert signals(groups_of([6, 3], [9, 12], [1]), AlgorithmConfig(advantage_estimator="dr_grpo")) == [
        [1.5, -1.5],
        [-1.5, 1.5],
        [0],
    ]


def test_rloo_measures_each_sample_against_the_others():
    config = AlgorithmConfig(advantage_estimator="rloo")
    assert signals(groups_of([6, 3], [9, 12], [1]), config) == [[3, -3], [-3, 3], [0]]


def test_maxrl_divides_by_the_success_rate():
    config = AlgorithmConfig(advantage_estimator="maxrl")
    assert signals(groups_of([1, 0, 0, 0], [1, 1], [0, 0], [1]), config) == [[3, -1, -1, -1], [0, 0], [0, 0], [0]]


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match="at least 0"):
        compute_advantages([group_of(1, -1)], AlgorithmConfig(advantage_estimator="maxrl"))


def test_raw_rewards_are_kept_where_normalization_is_disabled():
    config = AlgorithmConfig(rewards_normalization=False)
    assert signals(groups_of([6, 3], [1]), config) == [[6, 3], [1]]


@pytest.mark.parametrize("estimator", GROUP_BASELINE)
def test_a_group_of_equal_rewards_or_of_one_sample_teaches_nothing(estimator):
    config = AlgorithmConfig(advantage_estimator=estimator)
    advantages = signals(groups_of([0.1, 0.1, 0.1], [0.7]), config)
    # 0.1 is not a binary fraction: its mean over three may differ from it in the last bit of float64.
    np.testing.assert_allclose(advantages[0], 0, atol=1e-9)
    assert advantages[1] == [0]


def test_advantages_stand_on_the_trained_tokens_only():
    masks = [[0, 0, 1, 1, 0, 1], [0, 1]]
    advantages = compute_advantages([group_of(1, 0, masks=masks)], AlgorithmConfig(advantage_estimator="dr_grpo"))[0]
    assert [tokens.tolist() for tokens in advantages] == [[0, 0, 0.5, 0.5, 0, 0.5], [0, -0.5]]
    assert all(tokens.dtype == np.float32 for tokens in advantages)


def test_the_baseline_of_a_group_does_not_depend_on_the_other_groups():
    config = AlgorithmConfig()
    together = signals(groups_of([1, 0, 0], [5, 6], [2, 2, 9, 1]), config)
    alone = [signals([group], config)[0] for group in groups_of([1, 0, 0], [5, 6], [2, 2, 9, 1])]
    assert together == alone


def test_discounted_returns_follow_the_definition():
    rewards, mask = np.array([1.0, 2.0, 3.0]), np.array([True] * 3)
    assert discounted_returns(rewards, mask, 0.5).tolist() == [2.75, 3.5, 3]


def test_an_observation_span_is_skipped_without_a_discount():
    rewards, mask = np.array([0.0, 0, 0, 0, 2]), np.array([True, True, False, False, True])
    assert discounted_returns(rewards, mask, 0.5).tolist() == [0.5, 1, 0, 0, 2]


def test_a_reward_on_a_masked_tail_does_not_count():
    rewards, mask = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    assert discounted_returns(rewards, mask, 0.5).tolist() == [2, 2, 0]


def test_reinforce_plus_plus_rewards_the_last_trained_token_and_whitens_the_batch():
    config = AlgorithmConfig(advantage_estimator="reinforce_plus_plus", normalize_advantages=True, gamma=0.5)
    groups = [group_of(2, 4, masks=[[0, 1, 0, 1, 0], [0, 1]])]
    # returns 1 and 2 in the first sample, 4 in the second: mean 7/3, variance 7/3
    expected = [(value - 7 / 3) / math.sqrt(7 / 3) for value in (1, 2, 4)]
    first, second = compute_advantages(groups, config)[0]
    np.testing.assert_allclose(first, [0, expected[0], 0, expected[1], 0], **FLOAT32)
    np.testing.assert_allclose(second, [0, expected[2]], **FLOAT32)


def test_the_baseline_variant_of_reinforce_plus_plus_centres_groups_before_whitening():
    config = AlgorithmConfig(advantage_estimator="reinforce_plus_plus_baseline", normalize_advantages=True)
    # centred: 1, -1 | 3, -3, each on two tokens: mean 0, sum of squares 40, divisor 7
    scale = math.sqrt(40 / 7)
    advantages = signals(groups_of([2, 0], [7, 1]), config)
    np.testing.assert_allclose(advantages, np.array([[1, -1], [3, -3]]) / scale, **FLOAT32)


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0, 2.0]])
def test_whitening_gives_zero_where_there_is_nothing_to_compare(values):
    array = np.array(values)
    assert whiten([array], [np.ones(len(values), bool)])[0].tolist() == [0] * len(values)


def test_nothing_to_train_gives_zeros():
    config = AlgorithmConfig(advantage_estimator="reinforce_plus_plus", normalize_advantages=True)
    assert compute_advantages([group_of(1, masks=[[0, 0]])], config)[0][0].tolist() == [0, 0]
    assert compute_advantages([], config) == []


def test_a_group_given_in_two_parts_is_refused():
    with pytest.raises(ValueError, match="0-0 appears twice"):
        compute_advantages([group_of(1), group_of(0)], AlgorithmConfig())


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(reward):
    with pytest.raises(ValueError, match=r"samples \[1\] are not finite"):
        compute_advantages([group_of(1, reward)], AlgorithmConfig())


def test_a_sample_without_a_reward_is_refused():
    with pytest.raises(ValueError, match=r"samples \[1\] have no reward"):
        compute_advantages([group_of(1, None)], AlgorithmConfig())


def reference_signals(rewards: list[float], estimator: AdvantageEstimator) -> list[float]:
    """The estimators again, from the statistics module, sample by sample."""
    mean = statistics.fmean(rewards)
    if len(rewards) == 1:
        return [0.0]
    match estimator:
        case "grpo" | "gspo" | "cispo":
            return [(r - mean) / (statistics.stdev(rewards) + 1e-6) for r in rewards]
        case "rloo":
            return [r - statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
        case "maxrl":
            return [r / mean - 1 if mean else 0.0 for r in rewards]
        case _:
            return [r - mean for r in rewards]


@settings(max_examples=60, deadline=None)
@given(
    # Rewards are graders' scores; multiples of 1/16 are exact in float32, the type of SampleGroup.rewards.
    rewards=st.lists(st.lists(st.integers(0, 64).map(lambda n: n / 16), min_size=1, max_size=6), max_size=5),
    estimator=st.sampled_from(GROUP_BASELINE),
    is_whitened=st.booleans(),
)
def test_group_estimators_agree_with_a_plain_computation(rewards, estimator, is_whitened):
    config = AlgorithmConfig(advantage_estimator=estimator, normalize_advantages=is_whitened)
    expected = [reference_signals(group, estimator) for group in rewards]
    if is_whitened:
        tokens = [signal for group in expected for signal in group for _ in range(2)]
        if tokens:
            mean, variance = statistics.fmean(tokens), statistics.variance(tokens)
            expected = [[(s - mean) / math.sqrt(variance + 1e-8) for s in group] for group in expected]
    for got, want in zip(signals(groups_of(*rewards), config), expected, strict=True):
        # 1e-6 beside the float32 rounding: nearly equal rewards divide rounding errors of 1e-16 by 1e-6 or 1e-4.
        np.testing.assert_allclose(got, want, **FLOAT32)
