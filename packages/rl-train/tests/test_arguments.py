"""Megatron's flags. Tests that import Megatron are slow."""

import pickle
import shlex

import pytest

from rl_train import TrainConfigError
from rl_train.megatron.arguments import parse_megatron_args
from rl_train.megatron.flags_honoured import HONOURED, LIMITED, SHAPE_FLAGS
from rl_train.megatron.flags_model import shape_of
from rl_train.megatron.flags_refused import REFUSED
from rl_train.megatron.flags_values import from_json, to_json

# The published config.json of Qwen3-4B, without the keys that say nothing of the shape.
QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

MODEL_FLAGS = """
    --swiglu --num-layers 36 --hidden-size 2560 --ffn-hidden-size 9728 --num-attention-heads 32 --group-query-attention
    --num-query-groups 8 --use-rotary-position-embeddings --disable-bias-linear --normalization RMSNorm
    --norm-epsilon 1e-6 --rotary-base 1000000 --vocab-size 151936 --kv-channels 128 --qk-layernorm
"""
RUN_FLAGS = """
    --tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 1 --context-parallel-size 1
    --expert-model-parallel-size 1 --expert-tensor-parallel-size 1 --recompute-granularity full
    --recompute-method uniform --recompute-num-layers 1 --optimizer adam --lr 1e-6 --lr-decay-style constant
    --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.98 --attention-dropout 0.0 --hidden-dropout 0.0
    --accumulate-allreduce-grads-in-fp32 --attention-softmax-in-fp32 --attention-backend flash --bf16
"""


def parse(words: str, *, world_size: int = 8, train_iters: int | None = 10):
    return parse_megatron_args(
        shlex.split(words),
        model_config=QWEN3_4B,
        world_size=world_size,
        train_iters=train_iters,
        where="config.json of DIR",
    )


@pytest.mark.slow
def test_sequence_parallel_has_nothing_to_split_on_one_tensor_parallel_rank():
    assert parse("--sequence-parallel").values["sequence_parallel"] is False
    assert parse("--sequence-parallel --tensor-model-parallel-size 2").values["sequence_parallel"] is True


def test_the_tables_do_not_overlap():
    assert not HONOURED & REFUSED.keys()
    assert SHAPE_FLAGS | LIMITED.keys() <= HONOURED
    assert all(reason.strip() for reason in REFUSED.values())


@pytest.mark.slow
def test_every_flag_of_megatrons_parser_is_either_honoured_or_refused_with_a_reason():
    import argparse

    from megatron.training.arguments import add_megatron_arguments

    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_megatron_arguments(parser)
    flags = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert flags - HONOURED - REFUSED.keys() == set()
    assert (HONOURED | REFUSED.keys()) - flags == set()
    destinations = {option: action.dest for action in parser._actions for option in action.option_strings}
    assert {flag: limit.dest for flag, limit in LIMITED.items()} == {flag: destinations[flag] for flag in LIMITED}


@pytest.mark.slow
def test_the_flags_of_the_4b_recipe_are_taken_and_agree_with_its_config():
    arguments = parse(MODEL_FLAGS + RUN_FLAGS)
    assert arguments.explicit == {word for word in shlex.split(MODEL_FLAGS + RUN_FLAGS) if word.startswith("--")}
    assert arguments.values["data_parallel_size"] == 4
    assert arguments.values["padded_vocab_size"] == 151936
    assert arguments.values["use_distributed_optimizer"] is True


@pytest.mark.slow
def test_the_models_shape_comes_from_config_json_without_any_flag():
    from megatron.training.argument_utils import core_transformer_config_from_args

    config = core_transformer_config_from_args(parse("").namespace())
    assert (config.num_layers, config.hidden_size, config.ffn_hidden_size) == (36, 2560, 9728)
    assert (config.num_attention_heads, config.num_query_groups, config.kv_channels) == (32, 8, 128)
    assert (config.qk_layernorm, config.normalization, config.layernorm_epsilon) == (True, "RMSNorm", 1e-6)
    assert (config.add_bias_linear, config.add_qkv_bias, config.gated_linear_unit) == (False, False, True)
    assert (config.hidden_dropout, config.attention_dropout) == (0.0, 0.0)
    assert config.variable_seq_lengths


@pytest.mark.slow
def test_arguments_can_be_pickled_and_give_a_fresh_namespace_each_time():
    import torch

    arguments = parse("--bf16")
    assert pickle.loads(pickle.dumps(arguments)) == arguments  # noqa: S301  our own bytes
    first, second = arguments.namespace(), arguments.namespace()
    first.lr = 5.0
    assert second.lr == 1e-6
    assert second.params_dtype == torch.bfloat16
    assert second.attention_backend.name == "auto"


@pytest.mark.slow
def test_float32_is_the_precision_without_bf16():
    import torch

    assert parse("").namespace().params_dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-layers 28", "--num-layers 28: config.json of DIR says num_hidden_layers 36"),
        ("--rotary-base 10000", "--rotary-base 10000: config.json of DIR says rope_theta 1000000"),
        (
            "--untie-embeddings-and-output-weights",
            "--untie-embeddings-and-output-weights: config.json of DIR says tie_word_embeddings true",
        ),
        ("--add-qkv-bias", "--add-qkv-bias: config.json of DIR says architecture Qwen3ForCausalLM"),
        ("--hidden-dropout 0.1", "--hidden-dropout 0.1: expected 0.0: with dropout"),
        ("--transformer-impl transformer_engine", "--transformer-impl transformer_engine: expected local"),
        ("--attention-backend fused", "--attention-backend fused: expected auto"),
        ("--context-parallel-size 2", "--context-parallel-size 2: expected 1"),
        ("--tensor-model-parallel-size 3", "their product 3 does not divide 8 ranks"),
        ("--pipeline-model-parallel-size 8", "--pipeline-model-parallel-size 8: it does not divide num_layers 36"),
        ("--recompute-modules layernorm", "expected modules among core_attn, mlp"),
        ("--recompute-modules mlp", "--recompute-modules: it has no effect with --recompute-granularity None"),
        ("--recompute-activations --recompute-method block", "--recompute-method: it has no effect"),
        ("--recompute-granularity full --recompute-method block", "it needs --recompute-method and --recompute-num-la"),
        (
            "--tensor-model-parallel-size 2 --make-vocab-size-divisible-by 151936",
            "each has 151936 rows of the vocabulary of 151936 in config.json of DIR",
        ),
        ("--lr fast", "--lr: invalid float value: 'fast'"),
        ("--lr 1e-6 2", "--lr: unexpected value '2'"),
        ("--seed 1 --lr 1e-6 --bf16 1", "--bf16: unexpected value '1'"),
        ("1 --seed 1", "Megatron: unexpected value '1'"),
        ("--lr 1e-6 --min-lr 1e-5", "--lr 1e-06 and --min-lr 1e-05: expected 0 <= min-lr <= lr"),
        ("--lr-warmup-fraction 0.1 --lr-warmup-iters 3", "can only specify one of lr-warmup-fraction"),
        ("--recompute-activations --recompute-granularity full", "Megatron would change it to selective"),
    ],
)
def test_a_flag_that_cannot_be_honoured_is_an_error_that_says_why(words, message):
    with pytest.raises(TrainConfigError) as error:
        parse(words)
    assert message in str(error.value)


def test_only_one_of_two_decides_what_is_computed_again():
    parse("--recompute-granularity selective").check_recompute_policy("auto")
    parse("--bf16").check_recompute_policy("full")
    with pytest.raises(
        TrainConfigError, match="recompute_policy full: expected auto beside --recompute-granularity sel"
    ):
        parse("--recompute-granularity selective").check_recompute_policy("full")


def test_a_refused_flag_is_an_error_even_at_its_default_value():
    with pytest.raises(TrainConfigError, match=r"^--num-workers: .* rl-data reads the data"):
        parse("--num-workers 2")


def test_an_unknown_flag_is_an_error():
    with pytest.raises(TrainConfigError, match=r"^--lrr: Megatron has no such flag"):
        parse("--lrr 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architecture among Qwen3ForCausalLM, got LlamaForCausalLM"),
        ({"architectures": None}, "architecture among Qwen3ForCausalLM, got none"),
        ({"num_hidden_layers": None}, "num_hidden_layers to be a positive integer, got None"),
        ({"hidden_act": "gelu"}, "hidden_act 'silu' in this architecture, got 'gelu'"),
        ({"attention_bias": True}, "attention_bias False in this architecture, got True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "the plain rotary embedding, got rope_type 'yarn'"),
        ({"rope_theta": None}, "rope_theta to be a positive number, got None"),
    ],
)
def test_a_config_json_of_another_model_is_an_error_that_names_the_key(change, message):
    with pytest.raises(TrainConfigError) as error:
        shape_of(QWEN3_4B | change, where="config.json of DIR")
    assert str(error.value).startswith("config.json of DIR: expected ")
    assert message in str(error.value)


def test_the_rotary_base_is_also_read_where_transformers_5_writes_it():
    config = {name: value for name, value in QWEN3_4B.items() if name not in ("rope_theta", "rope_scaling")}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5000.0}
    assert {value.dest: value.value for value in shape_of(config, where="x")}["rotary_base"] == 5000


def test_a_head_dim_that_config_json_leaves_out_is_that_of_transformers():
    config = {name: value for name, value in QWEN3_4B.items() if name != "head_dim"}
    shape = {value.dest: value.value for value in shape_of(config, where="x")}
    assert shape["kv_channels"] == 128  # and not 2560 / 32; rl-weights' tests ask transformers itself


def test_values_survive_json():
    torch = pytest.importorskip("torch")
    for value in (None, True, 3, 0.1, "x", [1, "y"], (1, 2), torch.bfloat16):
        assert from_json(to_json("name", value)) == value


def test_a_value_of_another_type_cannot_be_written():
    with pytest.raises(TypeError, match="name: a set cannot be written as JSON"):
        to_json("name", {1})
