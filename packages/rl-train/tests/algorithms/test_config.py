"""The configuration refuses what it cannot honour and tells the recipe what to run."""

from dataclasses import fields

import pytest

from rl_train.algorithms import AlgorithmConfig
from rl_train.errors import TrainConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"advantage_estimator": "ppo"}, "advantage_estimator ppo"),
        ({"kl_loss_type": "k4"}, "kl_loss_type k4"),
        ({"eps_clip": -0.1}, "eps_clip -0.1"),
        ({"eps_clip_high": float("nan")}, "eps_clip_high nan"),
        ({"eps_clip_c": 1.0}, "eps_clip_c 1.0"),
        ({"advantage_estimator": "cispo", "eps_clip_c": 3.0}, "eps_clip_c"),
        ({"gamma": 0.9}, "gamma 0.9"),
        ({"advantage_estimator": "reinforce_plus_plus", "normalize_advantages": True, "gamma": 0.0}, "gamma 0.0"),
        ({"advantage_estimator": "reinforce_plus_plus"}, "normalize_advantages"),
        ({"advantage_estimator": "reinforce_plus_plus_baseline"}, "normalize_advantages"),
        ({"advantage_estimator": "rloo", "rewards_normalization": False}, "rewards_normalization False"),
        ({"advantage_estimator": "maxrl", "grpo_std_normalization": False}, "grpo_std_normalization False"),
        ({"kl_loss_coef": 0.1}, "use_kl_loss"),
        ({"use_unbiased_kl": True}, "use_kl_loss"),
        ({"use_kl_loss": True, "kl_loss_coef": -0.1}, "kl_loss_coef -0.1"),
        ({"use_rollout_logprobs": True, "use_tis": True}, "use_tis"),
        (
            {"use_rollout_logprobs": True, "use_rs": True, "rs_lower_bound": 0.5, "rs_upper_bound": 2.0},
            "use_rs",
        ),
        ({"tis_mode": "mask"}, "use_tis"),
        ({"tis_clip": 5.0}, "tis_clip 5.0 has no effect without use_tis"),
        ({"use_tis": True, "tis_clip_low": 3.0}, "tis_clip 2.0"),
        ({"use_rs": True}, "rs_lower_bound"),
        ({"use_rs": True, "rs_lower_bound": 2.0, "rs_upper_bound": 0.5}, "rs_upper_bound"),
        ({"rs_upper_bound": 2.0}, "use_rs"),
        ({"opsm_delta": 0.1}, "use_opsm"),
        ({"entropy_coef": float("inf")}, "entropy_coef inf"),
    ],
)
def test_a_setting_that_is_wrong_or_has_no_effect_is_refused_by_name(settings, message):
    with pytest.raises(TrainConfigError, match=message.replace(".", r"\.")):
        AlgorithmConfig(**settings)


def test_the_upper_clip_bound_follows_the_lower_one_unless_given():
    assert AlgorithmConfig(eps_clip=0.1).clip_high == 0.1
    assert AlgorithmConfig(eps_clip=0.2, eps_clip_high=0.28).clip_high == 0.28
    assert AlgorithmConfig(eps_clip=0.2, eps_clip_high=0.0).clip_high == 0.0


def test_the_recipe_learns_what_must_be_run():
    plain = AlgorithmConfig()
    assert not plain.needs_reference
    assert not plain.needs_entropy
    assert plain.needs_old_logprobs
    assert plain.loss_reduction == "sample"
    assert AlgorithmConfig(use_kl_loss=True).needs_reference
    assert AlgorithmConfig(entropy_coef=0.01).needs_entropy
    assert not AlgorithmConfig(use_rollout_logprobs=True).needs_old_logprobs
    assert AlgorithmConfig(calculate_per_token_loss=True).loss_reduction == "token"
    assert AlgorithmConfig(advantage_estimator="dr_grpo").loss_reduction == "token"


def test_every_field_explains_itself_and_says_where_its_flag_has_another_name():
    described = {field.name: field.metadata for field in fields(AlgorithmConfig)}
    assert all(metadata["help"].endswith(".") for metadata in described.values())
    assert {name: metadata["flag"] for name, metadata in described.items() if "flag" in metadata} == {
        "rewards_normalization": "--disable-rewards-normalization",
        "grpo_std_normalization": "--disable-grpo-std-normalization",
    }
    assert "ppo" not in described["advantage_estimator"]["choices"]
