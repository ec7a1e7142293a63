import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_folder import CONFIG, FAMILIES, tensors_of

from rl_weights import CheckpointError, ParallelLayout
from rl_weights.rules import FuseGateUp, FuseQKV, PadVocabulary, TensorRule, check_covered, rules_for
from rl_weights.torch_dist.layout import Ownership
from rl_weights.torch_dist.names import StoredNames, layer_of, name_of_row, num_row_dims


@st.composite
def shapes(draw):
    """A config.json of any family whose sizes are independent of each other, and a layout that the model can have."""
    tp, etp, ep = (draw(st.sampled_from([1, 2, 3, 4])) for _ in range(3))
    groups = tp * draw(st.integers(1, 3))
    num_layers = draw(st.integers(1, 5))
    config = {
        **FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))],
        "num_hidden_layers": num_layers,
        "hidden_size": draw(st.integers(1, 24)),
        "intermediate_size": tp * draw(st.integers(1, 12)),
        "num_key_value_heads": groups,
        "num_attention_heads": groups * draw(st.integers(1, 4)),
        "head_dim": draw(st.integers(1, 6)),
        "vocab_size": draw(st.integers(1, 40)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    if "num_experts" in config:
        config["num_experts"] = ep * draw(st.integers(1, 2))
        config["moe_intermediate_size"] = etp * draw(st.integers(1, 6))
        config["mlp_only_layers"] = draw(st.lists(st.integers(0, num_layers - 1), max_size=2))
        ep = ep if rules_have_experts(config) else 1
    else:
        ep = 1
    first, last = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pp = draw(st.sampled_from([pp for pp in range(1, num_layers + 1) if num_layers % pp == 0]))
    uneven = {}
    if draw(st.booleans()) and num_layers > first + last:
        uneven = {"first_stage_layers": first, "last_stage_layers": last}
        pp = 3
    return (
        config,
        ParallelLayout(tensor=tp, pipeline=pp, expert=ep, expert_tensor=etp, **uneven),
        draw(st.integers(1, 16)),
    )


def rules_have_experts(config):
    return any(rule.expert is not None for rule in rules_for(config))


@settings(deadline=None, max_examples=60)
@given(shapes())
def test_every_rule_is_undone_exactly_for_any_shape(drawn):
    config, layout, vocab_multiple = drawn
    tensors = tensors_of(config)
    rules = rules_for(config, vocab_multiple=vocab_multiple * layout.tensor)
    check_covered(rules, tensors, "here")
    for rule in rules:
        given_tensors = [tensors[name] for name in rule.hf_names]
        full = rule.to_megatron(given_tensors)
        assert tuple(full.shape) == rule.megatron_shape
        back = rule.to_hf(full)
        assert all(torch.equal(a, b) for a, b in zip(back, given_tensors, strict=True))
        for number, tensor in enumerate(given_tensors):
            if (box := rule.hf_box(number)) is not None:
                assert torch.equal(box.of(full), tensor)
        tp_size = layout.tensor if rule.expert is None else layout.tensor_of_experts
        shards = [rule.shard(full, rank, tp_size) for rank in range(tp_size)]
        assert torch.equal(rule.unshard(shards), full)
        if rule.tp_dim is not None:
            assert all(shard.shape == shards[0].shape for shard in shards)
            assert sum(shard.numel() for shard in shards) == full.numel()


@settings(deadline=None, max_examples=60)
@given(shapes(), st.integers(1, 2))
def test_the_stored_parts_are_what_the_ranks_hold_and_each_has_one_writer(drawn, num_copies):
    config, layout, vocab_multiple = drawn
    tensors = tensors_of(config)
    rules = rules_for(config, vocab_multiple=vocab_multiple * layout.tensor)
    names = StoredNames(rules)
    layout.check(rules, names.num_layers, names.num_experts)
    expert_ranks = layout.tensor_of_experts * layout.expert
    ranks_of_stage = math.lcm(layout.tensor, expert_ranks) * num_copies
    ownership = Ownership(layout, ranks_of_stage * layout.pipeline, names.num_layers, names.num_experts)
    stages = layout.layers_of_stages(names.num_layers)
    assert [layer for stage in stages for layer in stage] == list(range(names.num_layers))
    for rule in rules:
        full = rule.to_megatron([tensors[name] for name in rule.hf_names])
        tp_size = layout.tensor if rule.expert is None else layout.tensor_of_experts
        times_stored = torch.zeros(full.shape)
        of_rank = {rank: [] for rank in range(tp_size)}
        for tp_rank, box in layout.boxes(rule):
            part = rule.make_box(tensors.__getitem__, box)
            assert torch.equal(part, box.of(full))
            box.of(times_stored).add_(1)
            of_rank[tp_rank].append(part)
            owner = ownership.take(rule, tp_rank, box, item_bytes=4)
            stage, place = divmod(owner, ranks_of_stage)
            layer = layer_of(rule.megatron_name)
            assert layer is None or layer in stages[stage]
            assert rule.tp_dim is None or place % tp_size == tp_rank
            if rule.expert is not None:
                num_local = names.num_experts // layout.expert
                assert place // tp_size % layout.expert == rule.expert // num_local
        assert (times_stored == 1).all(), "every element is stored once"
        for rank, parts in of_rank.items():
            if rule.tp_dim is not None:
                assert torch.equal(torch.cat(parts), rule.shard(full, rank, tp_size))


@settings(deadline=None, max_examples=60)
@given(shapes())
def test_stored_names_lead_to_places_and_back_and_none_is_there_twice(drawn):
    config, _, _ = drawn
    rules = rules_for(config)
    for implementation in ("transformer_engine", "local"):
        names = StoredNames(rules, transformer_impl=implementation)
        stored = [names.name(rule.megatron_name) for rule in rules]
        assert len(set(stored)) == len(stored)
        for name in stored:
            place = names.place(name)
            sizes = names.row_sizes(place)
            assert num_row_dims(place.key) == len(place.rows) == len(sizes)
            assert all(row < size for row, size in zip(place.rows, sizes, strict=True))
            assert name_of_row(place.key, place.rows) == name


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


def test_the_bias_of_query_key_and_value_is_interleaved_as_their_weights_are():
    rule = next(rule for rule in rules_for(FAMILIES["qwen2"]) if rule.megatron_name.endswith("linear_qkv.bias"))
    assert rule.hf_names == tuple(f"model.layers.0.self_attn.{letter}_proj.bias" for letter in "qkv")
    q, k, v = torch.arange(32.0), torch.arange(100.0, 116), torch.arange(200.0, 216)
    full = rule.to_megatron([q, k, v])
    assert full.tolist() == [
        *range(16),
        *range(100, 108),
        *range(200, 208),
        *range(16, 32),
        *range(108, 116),
        *range(208, 216),
    ]
    assert torch.equal(rule.shard(full, 1, 2), full[32:])


def test_experts_have_rules_of_their_own_where_a_layer_has_experts():
    rules = {rule.megatron_name: rule for rule in rules_for({**FAMILIES["qwen3_moe"], "mlp_only_layers": [0]})}
    fused = rules["decoder.layers.1.mlp.experts.local_experts.3.linear_fc1.weight"]
    assert fused.hf_names == tuple(f"model.layers.1.mlp.experts.3.{part}_proj.weight" for part in ("gate", "up"))
    assert (fused.expert, fused.megatron_shape) == (3, (48, 32))
    router = rules["decoder.layers.1.mlp.router.weight"]
    assert (router.hf_names, router.tp_dim) == (("model.layers.1.mlp.gate.weight",), None)
    assert "decoder.layers.0.mlp.linear_fc1.weight" in rules
    assert "decoder.layers.0.mlp.router.weight" not in rules
    assert not rules_have_experts({**FAMILIES["qwen3_moe"], "decoder_sparse_step": 5})


def test_the_norm_before_the_experts_is_named_as_the_layer_implementation_names_it():
    rules = rules_for(FAMILIES["qwen3_moe"])
    parameter = "decoder.layers.2.pre_mlp_layernorm.weight"
    assert StoredNames(rules).name(parameter) == parameter
    local = StoredNames(rules, transformer_impl="local").name(parameter)
    assert local == "decoder.layers.2.mlp.linear_fc1.layer_norm_weight"
    assert StoredNames(rules_for(CONFIG)).name(parameter) == local


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


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_head_dim_that_config_json_leaves_out_is_that_of_transformers(family):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {key: value for key, value in FAMILIES[family].items() if key not in ("head_dim", "rope_parameters")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    [rule] = [
        rule for rule in rules_for(config) if rule.megatron_name.endswith("layers.0.self_attention.linear_proj.weight")
    ]
    assert rule.hf_shapes == (shapes["model.layers.0.self_attn.o_proj.weight"],)


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
        ({"mlp_bias": True}, "mlp_bias: expected false"),
        ({"num_experts": 4}, "moe_intermediate_size: expected a positive integer, got None"),
        ({"num_experts": 4, "mlp_only_layers": [9]}, r"mlp_only_layers: expected numbers of layers below 4, got \[9\]"),
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


def test_a_config_of_more_layers_or_experts_than_there_are_tensors_is_refused_before_their_rules_are_made():
    moe = {**FAMILIES["qwen3_moe"], "num_hidden_layers": 8, "num_experts": 16, "decoder_sparse_step": 8}
    num_tensors = len(rules_for(moe))  # fewer than layers x experts: one layer of eight has experts
    assert len(rules_for(moe, num_tensors=num_tensors)) == num_tensors < 8 * 16
    for key, changes in (
        ("num_hidden_layers", {"num_hidden_layers": 10**400}),
        ("num_experts, in 1 layers", {"num_experts": 10**12}),
        ("num_local_experts, in 1 layers", {"num_local_experts": 10**12}),
    ):
        with pytest.raises(CheckpointError, match=rf"config\.json: {key}: expected at most {num_tensors}"):
            rules_for({**moe, **changes}, num_tensors=num_tensors)
