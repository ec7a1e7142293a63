"""The assembled losses: golden sums, an independent float64 computation, masking, splitting, gradients."""

import math
import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from rl_train.algorithms import AlgorithmConfig, LossInputs, make_loss, sft_loss

WHITENED = {"normalize_advantages": True}
# One configuration for every path through the loss.
CONFIGS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo": {"eps_clip": 0.2, "eps_clip_high": 0.28, "eps_clip_c": 3.0, "calculate_per_token_loss": True},
    "gspo": {"advantage_estimator": "gspo", "eps_clip": 0.05},
    "cispo": {"advantage_estimator": "cispo", "eps_clip": 1.0, "eps_clip_high": 0.5},
    "kl_k1": {"use_kl_loss": True, "kl_loss_coef": 0.1},
    "kl_k2": {"use_kl_loss": True, "kl_loss_coef": 0.1, "kl_loss_type": "k2"},
    "kl_k3_unbiased": {"use_kl_loss": True, "kl_loss_coef": 0.1, "kl_loss_type": "k3", "use_unbiased_kl": True},
    "kl_low_var": {"use_kl_loss": True, "kl_loss_coef": 0.1, "kl_loss_type": "low_var_kl"},
    "kl_measured_only": {"use_kl_loss": True, "kl_loss_type": "k3"},
    "entropy": {"entropy_coef": 0.01},
    "rollout_logprobs": {"use_rollout_logprobs": True},
    "tis_token": {"use_tis": True, "tis_clip": 1.1},
    "tis_sequence": {"use_tis": True, "tis_level": "sequence", "tis_clip": 1.2, "tis_clip_low": 0.7},
    "icepop": {"use_tis": True, "tis_mode": "mask", "tis_clip_low": 0.8, "tis_clip": 1.2},
    "rejection_token": {"use_rs": True, "rs_level": "token", "rs_lower_bound": 0.8, "rs_upper_bound": 1.2},
    "rejection_geometric": {"use_rs": True, "rs_lower_bound": 0.95, "rs_upper_bound": 1.05},
    "opsm": {"use_opsm": True},
    "all_corrections": {
        "use_tis": True,
        "use_rs": True,
        "rs_level": "sequence",
        "rs_lower_bound": 0.8,
        "rs_upper_bound": 1.3,
        "use_opsm": True,
        "opsm_delta": 0.01,
        "use_kl_loss": True,
        "kl_loss_coef": 0.2,
        "entropy_coef": 0.05,
    },
}


def inputs_of(
    ratios: list[float],
    advantages: list[float],
    *,
    old: list[float] | None = None,
    mismatch: list[float] | None = None,
    weights: list[float] | None = None,
) -> LossInputs:
    """One sequence with the given present/old ratios and old - engine differences; weights give the plain mean."""
    size = len(ratios)
    old_logprobs = torch.tensor(old or [-1.0] * size)
    return LossInputs(
        logprobs=(old_logprobs + torch.tensor(ratios).log()).requires_grad_(),
        loss_weights=torch.tensor(weights or [1 / size] * size),
        advantages=torch.tensor(advantages),
        rollout_logprobs=old_logprobs - torch.tensor(mismatch or [0.0] * size),
        old_logprobs=old_logprobs,
        cu_seqlens=torch.tensor([0, size], dtype=torch.int32),
    )


def random_inputs(seed: int, lengths: list[int], dtype: torch.dtype = torch.float64) -> LossInputs:
    """Packed sequences with gaps in the mask; log-probabilities within about 0.3 of each other."""
    rng = np.random.default_rng(seed)
    size = sum(lengths)
    present = -rng.exponential(1.0, size) - 0.05

    def near(spread: float) -> Tensor:
        return torch.tensor(present + rng.normal(0, spread, size), dtype=dtype)

    trained = rng.random(size) < 0.7
    return LossInputs(
        logprobs=torch.tensor(present, dtype=dtype, requires_grad=True),
        loss_weights=torch.tensor(np.where(trained, rng.uniform(0.1, 1, size), 0), dtype=dtype),
        advantages=torch.tensor(np.where(trained, rng.normal(0, 1, size), 0), dtype=dtype),
        rollout_logprobs=near(0.15),
        old_logprobs=near(0.15),
        ref_logprobs=near(0.3),
        entropy=torch.tensor(rng.uniform(0, 2, size), dtype=dtype),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
    )


def gradient_of(loss_of: Any, inputs: LossInputs) -> Tensor:
    (gradient,) = torch.autograd.grad(loss_of(inputs).loss, inputs.logprobs)
    return gradient


def naive_loss(inputs: LossInputs, config: AlgorithmConfig) -> tuple[float, dict[str, float]]:
    """The loss again in plain Python floats: one token after the other, straight from the formulas."""
    columns = ("logprobs", "old_logprobs", "rollout_logprobs", "ref_logprobs", "entropy", "advantages", "loss_weights")
    rows: list[list[float]] = [getattr(inputs, name).tolist() for name in columns]
    bounds = inputs.cu_seqlens.tolist()
    total, sums = 0.0, dict.fromkeys(("clip_fraction", "ratio", "kl", "tis_ratio", "drop", "logprob_abs_diff"), 0.0)
    for start, stop in pairwise(bounds):
        tokens = [token for token in zip(*(row[start:stop] for row in rows), strict=True) if token[-1] != 0]
        if not tokens:
            continue
        base = [token[2] if config.use_rollout_logprobs else token[1] for token in tokens]
        steps = [token[0] - old for token, old in zip(tokens, base, strict=True)]
        gaps = [token[1] - token[2] for token in tokens]
        by_level = {"sequence": sum(gaps), "geometric": sum(gaps) / len(gaps)}
        for (new, old, engine, ref, entropy, advantage, weight), step, gap in zip(tokens, steps, gaps, strict=True):
            ratio = math.exp(sum(steps) / len(steps) if config.advantage_estimator == "gspo" else step)
            high = 1 + (config.eps_clip if config.eps_clip_high is None else config.eps_clip_high)
            bounded = min(max(ratio, 1 - config.eps_clip), high)
            if config.advantage_estimator == "cispo":
                loss, clipped = -bounded * advantage * new, bounded != ratio
            else:
                loss = -min(ratio * advantage, bounded * advantage)
                if config.eps_clip_c is not None and advantage < 0:
                    loss = min(loss, config.eps_clip_c * -advantage)
                clipped = loss != -ratio * advantage
            if config.use_tis:
                tis = math.exp(by_level.get(config.tis_level, gap))
                sums["tis_ratio"] += tis
                inside = config.tis_clip_low <= tis <= config.tis_clip
                if config.tis_mode == "mask":
                    loss *= tis if inside else 0.0
                else:
                    loss *= min(max(tis, config.tis_clip_low), config.tis_clip)
            is_dropped = False
            if config.use_rs:
                judged = math.exp(by_level.get(config.rs_level, gap))
                is_dropped |= not (config.rs_lower_bound or 0) <= judged <= (config.rs_upper_bound or 0)
            if config.use_opsm:
                is_dropped |= advantage < 0 and -sum(steps) / len(steps) > config.opsm_delta
            loss = 0.0 if is_dropped else loss
            if config.use_kl_loss:
                d = new - ref
                kl = {"k1": d, "k2": d * d / 2}.get(config.kl_loss_type, math.exp(-d) + d - 1)
                kl *= math.exp(step) if config.use_unbiased_kl else 1
                loss += config.kl_loss_coef * kl
                sums["kl"] += kl
            loss -= config.entropy_coef * entropy
            total += weight * loss
            sums["clip_fraction"] += clipped
            sums["ratio"] += ratio
            sums["drop"] += is_dropped
            sums["logprob_abs_diff"] += abs(old - engine)
    return total, sums


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_configuration_agrees_with_a_plain_computation(name, seed, lengths):
    config = AlgorithmConfig(**CONFIGS[name])
    inputs = random_inputs(seed, lengths)
    loss, metrics = make_loss(config)(inputs)
    want, sums = naive_loss(inputs, config)
    # Both in float64; a dozen operations a token, sums of at most 24 tokens.
    assert loss.item() == pytest.approx(want, rel=1e-10, abs=1e-10)
    for metric in sums.keys() & metrics.keys():
        assert metrics[metric].item() == pytest.approx(sums[metric], rel=1e-10, abs=1e-10)
    if config.use_rs != config.use_opsm:
        assert metrics["rs_drop_fraction" if config.use_rs else "opsm_drop_fraction"].item() == sums["drop"]


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_at_an_untrained_token_reaches_the_loss_or_its_gradient(name):
    loss_of = make_loss(AlgorithmConfig(**CONFIGS[name]))
    clean = random_inputs(5, [4, 7, 3])
    untrained = ~clean.trained
    poison = {"logprobs", "advantages", "rollout_logprobs", "old_logprobs", "ref_logprobs", "entropy"}
    dirty = replace(clean, **{key: getattr(clean, key).detach().clone() for key in poison})
    for key in poison:
        getattr(dirty, key)[untrained] = math.nan
    dirty.logprobs.requires_grad_()
    got, want = loss_of(dirty), loss_of(clean)
    assert got.loss.item() == want.loss.item()
    assert {k: v.item() for k, v in got.metrics.items()} == {k: v.item() for k, v in want.metrics.items()}
    gradient = gradient_of(loss_of, dirty)
    assert (gradient[untrained] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_does_not_depend_on_the_split_over_micro_batches(name):
    loss_of = make_loss(AlgorithmConfig(**CONFIGS[name]))
    lengths = [4, 1, 7, 3]
    whole = random_inputs(11, lengths)
    total, metrics = loss_of(whole)
    (gradient,) = torch.autograd.grad(total, whole.logprobs)
    parts: list[LossInputs] = []
    for start, stop, sizes in ((0, 5, [4, 1]), (5, 12, [7]), (12, 15, [3])):
        tensors = {key: getattr(whole, key).detach()[start:stop] for key in whole.__slots__ if key != "cu_seqlens"}
        parts.append(LossInputs(**tensors, cu_seqlens=torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32)))
        parts[-1].logprobs.requires_grad_()
    outputs = [loss_of(part) for part in parts]
    # The same float64 terms, added in another order.
    torch.testing.assert_close(sum(output.loss for output in outputs), total, rtol=1e-12, atol=1e-12)
    for key, value in metrics.items():
        torch.testing.assert_close(sum(output.metrics[key] for output in outputs), value, rtol=1e-12, atol=1e-12)
    split = torch.cat([gradient_of(loss_of, part) for part in parts])
    torch.testing.assert_close(split, gradient, rtol=1e-12, atol=1e-12)


# cispo's ratio is a constant by definition, so a finite difference of its loss is not its gradient.
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "cispo"])
def test_gradients_agree_with_finite_differences(name):
    config = AlgorithmConfig(**CONFIGS[name])
    inputs = random_inputs(3, [5, 4])
    assert gradcheck(lambda x: make_loss(config)(replace(inputs, logprobs=x)).loss, inputs.logprobs)


def test_the_entropy_bonus_reaches_the_entropy():
    inputs = replace(random_inputs(1, [6]), entropy=torch.ones(6, dtype=torch.float64, requires_grad=True))
    assert inputs.entropy is not None
    (gradient,) = torch.autograd.grad(make_loss(AlgorithmConfig(entropy_coef=0.5))(inputs).loss, inputs.entropy)
    torch.testing.assert_close(gradient, -0.5 * inputs.loss_weights)


def test_without_old_logprobs_the_step_is_on_policy():
    inputs = replace(inputs_of([0.5, 1, 1.5], [1, -1, 2]), old_logprobs=None)
    output = make_loss(AlgorithmConfig())(inputs)
    assert output.loss.item() == pytest.approx(-0.6667, abs=1e-4)
    assert output.metrics["ratio"].item() == 3
    assert output.metrics["ppo_kl"].item() == 0
    # The gradient is that of REINFORCE: -weight x advantage.
    torch.testing.assert_close(gradient_of(make_loss(AlgorithmConfig()), inputs), -inputs.advantages / 3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AlgorithmConfig(use_tis=True, tis_clip=0.8), -0.4744),
        (AlgorithmConfig(advantage_estimator="gspo", use_tis=True, tis_clip=0.8, tis_level="sequence"), -0.4846),
    ],
)
def test_truncated_importance_sampling_of_the_whole_loss(config, expected):
    inputs = inputs_of([0.5, 1, 1.5], [1, -1, 2], mismatch=[-0.5, 0.5, -0.2])
    assert make_loss(config)(inputs).loss.item() == pytest.approx(expected, abs=1e-4)


def test_importance_weights_carry_no_gradient_on_the_first_step():
    inputs = replace(inputs_of([1, 1], [1, -1], mismatch=[0.3, -0.3]), old_logprobs=None)
    weights = torch.tensor([0.3, -0.3]).exp()
    gradient = gradient_of(make_loss(AlgorithmConfig(use_tis=True)), inputs)
    # float32: the exponent is a difference of two numbers near 1.
    torch.testing.assert_close(gradient, -weights * inputs.advantages / 2, rtol=1e-5, atol=1e-6)


def test_the_mismatch_of_engine_and_trainer_is_measured_before_any_step():
    inputs = inputs_of([0.5, 2, 1], [1, 1, 1], mismatch=[0.1, -0.3, 5.0], weights=[1.0, 1.0, 0.0])
    metrics = make_loss(AlgorithmConfig())(inputs).metrics
    assert metrics["logprob_abs_diff"].item() == pytest.approx(0.4, abs=1e-6)
    assert metrics["ppo_kl"].item() == pytest.approx(0, abs=1e-6)
    assert metrics["clip_fraction"].item() == 1


def test_metrics_are_there_exactly_where_they_mean_something():
    inputs = random_inputs(2, [5])
    always = {"logprob_abs_diff", "ppo_kl", "ratio", "clip_fraction"}
    assert make_loss(AlgorithmConfig())(replace(inputs, entropy=None)).metrics.keys() == always
    everything = make_loss(AlgorithmConfig(**CONFIGS["all_corrections"]))(inputs).metrics
    extra = {"entropy", "kl", "tis_ratio", "tis_clip_fraction", "rs_drop_fraction", "opsm_drop_fraction"}
    assert everything.keys() == always | extra
    assert not any(value.requires_grad for value in everything.values())


def test_a_micro_batch_without_trained_tokens_gives_zero_with_a_gradient():
    inputs = inputs_of([1, 1], [0, 0], weights=[0.0, 0.0])
    for loss_of in (make_loss(AlgorithmConfig(advantage_estimator="gspo")), sft_loss):
        loss, metrics = loss_of(inputs)
        assert loss.item() == 0
        assert all(value.item() == 0 for value in metrics.values())
        assert gradient_of(loss_of, inputs).tolist() == [0, 0]


def test_extreme_log_probabilities_stay_finite():
    inputs = LossInputs(
        logprobs=torch.tensor([0.0, -1e4, 0.0, -1e4], requires_grad=True),
        loss_weights=torch.ones(4),
        advantages=torch.tensor([1.0, 1, -1, -1]),
        rollout_logprobs=torch.tensor([-1e4, 0.0, -1e4, 0.0]),
        old_logprobs=torch.tensor([-1e4, 0.0, 0.0, -1e4]),
        ref_logprobs=torch.tensor([-1e4, 0.0, -1e4, 0.0]),
        entropy=torch.zeros(4),
        cu_seqlens=torch.tensor([0, 2, 4], dtype=torch.int32),
    )
    for settings_of in CONFIGS.values():
        loss_of = make_loss(AlgorithmConfig(**settings_of))
        assert loss_of(inputs).loss.isfinite()
        assert gradient_of(loss_of, inputs).isfinite().all()


def test_missing_inputs_are_named():
    inputs = inputs_of([1, 1], [1, -1])
    with pytest.raises(ValueError, match="--use-kl-loss needs"):
        make_loss(AlgorithmConfig(use_kl_loss=True))(inputs)
    with pytest.raises(ValueError, match=r"--entropy-coef 0.1 needs"):
        make_loss(AlgorithmConfig(entropy_coef=0.1))(inputs)
    with pytest.raises(ValueError, match=r"expected advantages of shape \(2,\), got \(3,\)"):
        replace(inputs, advantages=torch.zeros(3))


def test_a_loss_crosses_process_borders():
    config = AlgorithmConfig(entropy_coef=0.1)
    copy = pickle.loads(pickle.dumps(make_loss(config)))  # noqa: S301 (our own bytes)
    inputs = random_inputs(4, [3, 3])
    assert copy.needs_entropy
    assert copy(inputs).loss.item() == make_loss(config)(inputs).loss.item()


def test_sft_is_the_weighted_negative_log_likelihood():
    inputs = inputs_of([1, 1, 1], [0, 0, 0], old=[-0.5, -2.0, -math.inf], weights=[0.25, 0.5, 0.0])
    loss, metrics = sft_loss(inputs)
    assert loss.item() == pytest.approx(0.25 * 0.5 + 0.5 * 2)
    assert metrics["nll"].item() == pytest.approx(2.5)
    assert gradient_of(sft_loss, inputs).tolist() == [-0.25, -0.5, 0]
    assert not sft_loss.needs_entropy
