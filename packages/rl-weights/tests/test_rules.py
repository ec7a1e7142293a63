import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_qwen3_folder import CONFIG, tensors_of

from rl_weights import CheckpointError
from rl_weights.rules import FuseGateUp, FuseQKV, PadVocabulary, TensorRule, check_covered, rules_for


@st.composite
def shapes(draw):
    """A config.json whose sizes are independent of each other, and a tensor-parallel size that divides them."""
    tp_size = draw(st.sampled_from([1, 2, 3, 4]))
    groups = tp_size * draw(st.integers(1, 3))
    config = {
        **CONFIG,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "hidden_size": draw(st.integers(1, 24)),
        "intermediate_size": tp_size * draw(st.integers(1, 12)),
        "num_key_value_heads": groups,
        "num_attention_heads": groups * draw(st.integers(1, 4)),
        "head_dim": draw(st.integers(1, 6)),
        "vocab_size": draw(st.integers(1, 40)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    return config, tp_size, tp_size * draw(st.integers(1, 16))


@settings(deadline=None, max_examples=60)
@given(shapes())
def test_every_rule_is_undone_exactly_for_any_shape(drawn):
    config, tp_size, vocab_multiple = drawn
    tensors = tensors_of(config)
    rules = rules_for(config, vocab_multiple=vocab_multiple)
    check_covered(rules, tensors, "here")
    for rule in rules:
        given_tensors = [tensors[name] for name in rule.hf_names]
        full = rule.to_megatron(given_tensors)
        assert tuple(full.shape) == rule.megatron_shape
        back = rule.to_hf(full)
        assert all(torch.equal(a, b) for a, b in zip(back, given_tensors, strict=True))
        shards = [rule.shard(full, rank, tp_size) for rank in range(tp_size)]
        assert torch.equal(rule.unshard(shards), full)
        if rule.tp_dim is not None:
            assert all(shard.shape == shards[0].shape for shard in shards)
            assert sum(shard.numel() for shard in shards) == full.numel()


def test_query_key_and_value_are_interleaved_by_group():
    rule = FuseQKV(
        megatron_name="qkv", hf_names=("q", "k", "v"), hf_shapes=((8, 1), (4, 1), (4, 1)), tp_dim=0, num_groups=2
    )
    q = torch.arange(8.0).reshape(8, 1)  # 4 heads of 2; heads 0 and 1 belong to group 0
    k = torch.arange(100.0, 104).reshape(4, 1)
    v = torch.arange(200.0, 204).reshape(4, 1)
    full = rule.to_megatron([q, k, v])
    expected = [0, 1, 2, 3, 100, 101, 200, 201, 4, 5, 6, 7, 102, 103, 202, 203]
    assert full.flatten().tolist() == expected
    assert rule.shard(full, 1, 2).flatten().tolist() == expected[8:]


def test_each_rank_holds_its_gate_rows_and_then_its_up_rows():
    rule = FuseGateUp(megatron_name="fc1", hf_names=("gate", "up"), hf_shapes=((4, 1), (4, 1)), tp_dim=0)
    full = rule.to_megatron([torch.arange(4.0).reshape(4, 1), torch.arange(10.0, 14).reshape(4, 1)])
    assert full.flatten().tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    shards = [rule.shard(full, rank, 2) for rank in range(2)]
    assert [shard.flatten().tolist() for shard in shards] == [[0, 1, 10, 11], [2, 3, 12, 13]]
    assert torch.equal(rule.unshard(shards), full)


def test_the_vocabulary_is_padded_with_zeros_and_any_padding_is_stripped():
    rule = PadVocabulary(megatron_name="embedding", hf_names=("embed",), hf_shapes=((3, 2),), tp_dim=0, padded_rows=4)
    embed = torch.ones(3, 2)
    assert rule.to_megatron([embed]).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    for num_rows in (3, 4, 128):
        (back,) = rule.to_hf(torch.cat([embed, torch.full((num_rows - 3, 2), 9.0)]))
        assert torch.equal(back, embed)
    with pytest.raises(CheckpointError, match=r"embedding: expected shape \('>= 3', 2\).*got \(2, 2\)"):
        rule.to_hf(embed[:2])


def test_row_parallel_weights_are_sliced_by_columns_and_norms_are_whole():
    rules = {rule.megatron_name: rule for rule in rules_for(CONFIG)}
    projection = rules["decoder.layers.1.self_attention.linear_proj.weight"]
    full = torch.arange(32.0 * 64).reshape(32, 64)
    assert torch.equal(projection.shard(full, 1, 2), full[:, 32:])
    norm = rules["decoder.layers.1.input_layernorm.weight"]
    assert torch.equal(norm.shard(torch.ones(32), 1, 2), torch.ones(32))


def test_the_table_of_qwen3_names_every_parameter_once():
    rules = rules_for(CONFIG)
    names = [rule.megatron_name for rule in rules]
    assert names[:3] == [
        "embedding.word_embeddings.weight",
        "decoder.layers.0.input_layernorm.weight",
        "decoder.layers.0.self_attention.linear_qkv.weight",
    ]
    assert names[-2:] == ["decoder.final_layernorm.weight", "output_layer.weight"]
    assert len(set(names)) == len(names) == 3 + 8 * 4
    tied = rules_for({**CONFIG, "tie_word_embeddings": True})
    assert [rule.megatron_name for rule in tied] == names[:-1]
    assert tied[0].tied_names == ("lm_head.weight",)


def test_half_precision_stays_as_it_is():
    for dtype in (torch.bfloat16, torch.float16):
        tensors = tensors_of(CONFIG, dtype)
        assert all(
            rule.to_megatron([tensors[name] for name in rule.hf_names]).dtype == dtype for rule in rules_for(CONFIG)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"architectures: expected one of .*Qwen3ForCausalLM, .*got \['GPT2"),
        ({"architectures": None}, "architectures: expected one of .*, got None"),
        ({"hidden_size": None}, "hidden_size: expected a positive integer, got None"),
        ({"hidden_size": True}, "hidden_size: expected a positive integer, got True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer, got 0"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: expected true or false, got 'yes'"),
        ({"attention_bias": True}, "attention_bias: expected false"),
    ],
)
def test_a_config_that_no_table_covers_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        rules_for({**CONFIG, **changes})


def test_tensors_without_a_rule_and_rules_without_a_tensor_are_named():
    rules = rules_for(CONFIG)
    names = set(tensors_of(CONFIG))
    check_covered(rules, names, "here")
    with pytest.raises(CheckpointError, match=r"here: no rule covers model\.layers\.0\.self_attn\.q_proj\.bias$"):
        check_covered(rules, names | {"model.layers.0.self_attn.q_proj.bias"}, "here")
    with pytest.raises(CheckpointError, match=r"here: missing model\.norm\.weight$"):
        check_covered(rules, names - {"model.norm.weight"}, "here")
    with pytest.raises(CheckpointError, match=r"no rule covers lm_head"):
        check_covered(rules_for({**CONFIG, "vocab_size": 5})[:-1], {"lm_head.weight"}, "here")


def test_a_tensor_of_another_shape_or_dtype_is_named():
    rule = rules_for(CONFIG)[2]
    q, k, v = (torch.zeros(shape) for shape in rule.hf_shapes)
    with pytest.raises(CheckpointError, match=r"k_proj\.weight: expected shape \(32, 32\).*got \(31, 32\)"):
        rule.to_megatron([q, k[:-1], v])
    with pytest.raises(CheckpointError, match=r"v_proj\.weight: expected dtype torch\.float32.*got torch\.float16"):
        rule.to_megatron([q, k, v.half()])
    with pytest.raises(CheckpointError, match=r"linear_qkv\.weight: expected 3 tensors, got 2"):
        rule.to_megatron([q, k])
    with pytest.raises(CheckpointError, match=r"linear_qkv\.weight: expected shape \(128, 32\).*got \(4, 4\)"):
        rule.to_hf(torch.zeros(4, 4))


def test_sizes_that_do_not_divide_over_the_ranks_are_refused():
    for rule, tp_size, message in (
        (rules_for(CONFIG)[0], 2, "67 rows do not divide over 2 ranks"),
        (rules_for(CONFIG)[2], 4, "2 key/value groups do not divide over 4 ranks"),
        (rules_for(CONFIG)[7], 5, "48 gate rows do not divide over 5 ranks"),
        (rules_for(CONFIG)[8], 5, "48 columns do not divide over 5 ranks"),
    ):
        with pytest.raises(CheckpointError, match=message):
            rule.shard(torch.zeros(rule.megatron_shape), 0, tp_size)


def test_a_plain_rule_hands_the_tensor_on():
    rule = TensorRule(megatron_name="a", hf_names=("b",), hf_shapes=((2,),))
    tensor = torch.ones(2)
    assert rule.to_megatron([tensor]) is tensor
    assert rule.to_hf(tensor)[0] is tensor
