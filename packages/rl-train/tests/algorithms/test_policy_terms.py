"""Policy objectives, divergences and corrections, token by token, against cases computed by hand.

The numbers are those that the test suites of slime, verl, NeMo-RL and SkyRL agree on. They have four decimals, hence
the absolute tolerance of 1e-4; the ratios themselves are exact to float32.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rl_train.algorithms.cispo import cispo_term
from rl_train.algorithms.clipped import MAX_LOG_RATIO, clipped_policy_term, ratio_from_log
from rl_train.algorithms.gspo import sequence_log_ratio
from rl_train.algorithms.importance import importance_weights, is_on_policy_enough, is_within, policy_ratio
from rl_train.algorithms.kl import kl_estimate
from rl_train.algorithms.sequences import Sequences

KL_TYPES = ["k1", "k2", "k3", "low_var_kl"]


def assert_values(got: Tensor, *want: float) -> None:
    torch.testing.assert_close(got.reshape(-1), torch.tensor(want, dtype=got.dtype), rtol=1e-4, atol=1e-4)


def logs(*ratios: float) -> Tensor:
    return torch.tensor(ratios).log()


def one_sequence(num_tokens: int) -> Sequences:
    return Sequences.of(torch.tensor([0, num_tokens]), torch.ones(num_tokens, dtype=torch.bool), torch.float32)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("k1", (-1, 14, 29)),
        ("k2", (0.5, 98, 420.5)),
        ("k3", (math.e - 2, 13, 28)),
        ("low_var_kl", (math.e - 2, 10, 10)),
    ],
)
def test_kl_estimators(kind, values):
    assert_values(kl_estimate(torch.full((3,), -1.0), torch.tensor([0.0, -15, -30]), kind), *values)


def test_k3_penalty_of_a_spread_around_the_reference():
    kl = kl_estimate(torch.tensor([0.0, -1, -2]), torch.full((3,), -1.0), "k3")
    assert_values(kl, 1 / math.e, 0, math.e - 2)
    assert_values(kl.mean(), 0.3620)


@pytest.mark.parametrize("kind", KL_TYPES)
def test_kl_is_weighted_by_the_ratio_before_it_is_bounded(kind):
    present, reference, ratio = torch.tensor([-1.0, -1]), torch.tensor([0.0, -8]), torch.tensor([0.5, 3])
    plain = kl_estimate(present, reference, "k3" if kind == "low_var_kl" else kind) * ratio
    want = plain.clamp(-10, 10) if kind == "low_var_kl" else plain
    torch.testing.assert_close(kl_estimate(present, reference, kind, ratio), want)


@pytest.mark.parametrize("kind", KL_TYPES)
def test_kl_stays_finite_and_never_pushes_away_from_a_distant_reference(kind):
    present = torch.tensor([-1000.0], requires_grad=True)
    kl = kl_estimate(present, torch.zeros(1), kind)
    (gradient,) = torch.autograd.grad(kl.sum(), present)
    assert kl.isfinite()
    assert gradient.isfinite()
    # k1's gradient is 1 everywhere; the others pull the probability up or, beyond their bound, do nothing.
    assert gradient.item() <= (1 if kind == "k1" else 0)


def test_ppo_clip():
    term = clipped_policy_term(logs(0.5, 1, 1.5), torch.tensor([1.0, -1, 2]), eps_low=0.2, eps_high=0.2)
    assert_values(term.loss, -0.5, 1, -2.4)
    assert_values(term.loss.mean(), -0.6333)
    assert term.is_clipped.tolist() == [False, False, True]


def test_clip_bounds_may_differ():
    term = clipped_policy_term(logs(1.25, 1.25, 0.5), torch.tensor([1.0, 1, -1]), eps_low=0.4, eps_high=0.28)
    assert_values(term.loss, -1.25, -1.25, 0.6)
    assert term.is_clipped.tolist() == [False, False, True]


def test_dual_clip_bounds_the_loss_of_a_runaway_token_with_a_negative_advantage():
    term = clipped_policy_term(logs(0.5, 1, 10), torch.tensor([1.0, -1, -4]), eps_low=0.2, eps_high=0.2, dual_clip=3)
    assert_values(term.loss, -0.5, 1, 12)
    assert_values(term.loss.sum(), 12.5)
    assert term.is_clipped.tolist() == [False, False, True]
    term = clipped_policy_term(logs(2, 2, 0.5), torch.tensor([2.0, -2, 2]), eps_low=0.2, eps_high=0.2, dual_clip=1.5)
    assert_values(term.loss, -2.4, 3, -1)
    assert term.is_clipped.tolist() == [True, True, False]


def test_a_ratio_of_one_gives_the_negative_advantage():
    term = clipped_policy_term(torch.zeros(3), torch.tensor([1.0, -1, 2]), eps_low=0.2, eps_high=0.2)
    assert_values(term.loss.mean(), -0.6667)


def test_cispo_weights_the_log_probability_by_a_bounded_ratio_without_gradient():
    old = torch.tensor([-1.0, -1, -3])
    present = (old + logs(0.5, 1, 10)).requires_grad_()
    advantages = torch.tensor([1.0, -1, -4])
    term = cispo_term(present - old, present, advantages, eps_low=0.2, eps_high=0.2)
    assert_values(term.loss.sum(), -2.9930)
    assert term.is_clipped.tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(term.loss.sum(), present)
    assert_values(gradient, -0.8, 1, 4.8)


def test_cispo_at_a_ratio_of_one_is_reinforce():
    term = cispo_term(
        torch.zeros(3), torch.tensor([-0.5, -1, -1.5]), torch.tensor([1.0, -1, 2]), eps_low=0.2, eps_high=0.2
    )
    assert_values(term.loss.mean(), 0.8333)


def test_gspo_gives_every_token_the_geometric_mean_of_its_sequence():
    log_ratio = sequence_log_ratio(logs(0.5, 1, 1.5), one_sequence(3))
    assert_values(log_ratio.exp(), 0.9086, 0.9086, 0.9086)
    term = clipped_policy_term(log_ratio, torch.tensor([1.0, -1, 2]), eps_low=0.2, eps_high=0.2)
    assert_values(term.loss.mean(), -0.6057)


def test_sequence_sums_and_means_respect_boundaries_and_masks():
    trained = torch.tensor([True, True, False, True, False])
    sequences = Sequences.of(torch.tensor([0, 3, 4, 5], dtype=torch.int32), trained, torch.float32)
    values = torch.tensor([1.0, 3, 0, 5, 0])
    assert sequences.sum(values).tolist() == [4, 4, 4, 5, 0]
    assert sequences.mean(values).tolist() == [2, 2, 2, 5, 0]


def test_truncated_importance_weights_per_token_and_per_sequence():
    mismatch = torch.tensor([0.5, -0.5, 1])
    token = policy_ratio(mismatch, "token", one_sequence(3))
    assert_values(importance_weights(token, "truncate", low=0, high=2).weights, 1.6487, 0.6065, 2)
    sequence = policy_ratio(mismatch, "sequence", one_sequence(3))
    assert_values(sequence, math.e, math.e, math.e)
    big = policy_ratio(torch.ones(3), "sequence", one_sequence(3))
    assert_values(big, 20.0855, 20.0855, 20.0855)
    truncated = importance_weights(big, "truncate", low=0, high=5)
    assert truncated.weights.tolist() == [5, 5, 5]
    assert truncated.is_clipped.all()


def test_the_lower_bound_of_an_importance_weight_raises_it():
    weights = importance_weights(torch.tensor([0.1, 1]), "truncate", low=0.5, high=2)
    assert_values(weights.weights, 0.5, 1)
    assert weights.is_clipped.tolist() == [True, False]


def test_icepop_zeroes_the_weights_outside_its_bounds():
    ratio = torch.tensor([-0.5, 2.5, -0.2]).exp()
    assert_values(importance_weights(ratio, "mask", low=0.5, high=5).weights, 0.6065, 0, 0.8187)


def test_a_sequence_is_rejected_by_its_geometric_mean():
    ratio = policy_ratio(torch.full((3,), 0.5), "geometric", one_sequence(3))
    assert_values(ratio, 1.6487, 1.6487, 1.6487)
    assert not is_within(ratio, low=0.9, high=1.1).any()
    assert is_within(torch.tensor([0.9, 1.1]), low=0.9 - 1e-6, high=1.1 + 1e-6).all()


def test_off_policy_sequences_are_masked_only_where_the_advantage_is_negative():
    sequences = Sequences.of(torch.tensor([0, 2, 4, 6]), torch.ones(6, dtype=torch.bool), torch.float32)
    log_ratio = torch.tensor([-0.4, 0.0, -0.4, 0.0, -0.2, 0.0])  # mean drifts 0.2, 0.2, 0.1
    advantages = torch.tensor([-1.0, -1, 1, 1, -1, -1])
    kept = is_on_policy_enough(log_ratio, advantages, sequences, delta=0.15)
    assert kept.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_importance_ratios_are_constants_to_the_gradient(level):
    assert not policy_ratio(torch.zeros(3, requires_grad=True), level, one_sequence(3)).requires_grad


def test_a_ratio_never_overflows():
    assert ratio_from_log(torch.tensor([1e4])).item() == pytest.approx(math.exp(MAX_LOG_RATIO))
    assert ratio_from_log(torch.tensor([-1e4])).item() == 0
    assert policy_ratio(torch.full((100,), 50.0), "sequence", one_sequence(100)).isfinite().all()


@pytest.mark.parametrize("kind", KL_TYPES)
def test_kl_gradients(kind):
    # Points away from the bounds at 10 and 20, where the estimate has a kink.
    present = torch.tensor([-1.0, -2.5, -0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5, -1.0, -0.4], dtype=torch.float64)
    old = torch.tensor([-1.1, -2.4, -0.1], dtype=torch.float64)
    assert gradcheck(lambda x: kl_estimate(x, reference, kind), present)
    assert gradcheck(lambda x: kl_estimate(x, reference, kind, ratio_from_log(x - old)), present)


def test_gradients_of_the_clipped_and_the_sequence_objective():
    # Ratios 0.5, 1.1, 1.5, 0.95: none at a bound, where the objective has a kink.
    log_ratio = torch.tensor([0.5, 1.1, 1.5, 0.95], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([1.0, -1, 2, -0.5], dtype=torch.float64)
    sequences = Sequences.of(torch.tensor([0, 3, 4]), torch.ones(4, dtype=torch.bool), torch.float64)
    bounds = {"eps_low": 0.2, "eps_high": 0.28, "dual_clip": 3.0}
    assert gradcheck(lambda x: clipped_policy_term(x, advantages, **bounds).loss, log_ratio)
    assert gradcheck(
        lambda x: clipped_policy_term(sequence_log_ratio(x, sequences), advantages, **bounds).loss, log_ratio
    )
