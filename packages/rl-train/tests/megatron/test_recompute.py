"""Bytes that layers keep, and the plan that fits them into the free memory."""

import pytest
import torch

from rl_train.megatron.recompute import (
    NOTHING,
    LayerShape,
    RecomputePlan,
    layer_bytes,
    plan_recompute,
    step_bytes,
)
from rl_train.megatron.saved import recomputable, recomputable_together, saving_recipes

GIB = 2**30
QWEN3_4B = LayerShape(
    num_layers=36,
    hidden_size=2560,
    num_heads=32,
    num_groups=8,
    head_dim=128,
    feed_forward=9728,
    vocab_size=151936,
)


def plan(free_gib: float, tokens: int = 16384, policy: str = "auto", shape: LayerShape = QWEN3_4B) -> RecomputePlan:
    return plan_recompute(policy, shape, num_tokens=tokens, chunk_size=2048, free_bytes=int(free_gib * GIB))


def test_a_layer_of_qwen3_4b_keeps_what_the_table_says() -> None:
    each = layer_bytes(QWEN3_4B)
    assert each.input == 5120
    # Two hidden states, merged projection 6144, attention 4096 with 32 log-sum-exps, gate and up 19456.
    assert each.kept == 2 * 5120 + 2 * 6144 + 2 * 4096 + 4 * 32 + 2 * 19456
    # Two norms, rotated queries and keys with values, product.
    assert each.elementwise == 2 * 5120 + 2 * 6144 + 2 * 9728


def test_tensor_parallel_ranks_share_all_but_hidden_states_and_those_under_sequence_parallelism() -> None:
    whole = layer_bytes(QWEN3_4B)
    half = layer_bytes(QWEN3_4B._replace(tensor_parallel=2))
    assert whole.kept - 2 * 5120 == 2 * (half.kept - 2 * 5120)
    split = layer_bytes(QWEN3_4B._replace(tensor_parallel=2, is_sequence_parallel=True))
    assert (split.kept, split.elementwise, split.input) == (whole.kept // 2, whole.elementwise // 2, 2560)


def test_a_step_is_its_layers_one_of_them_at_work_and_both_ends() -> None:
    shape = LayerShape(
        num_layers=3, hidden_size=8, num_heads=2, num_groups=1, head_dim=4, feed_forward=16, vocab_size=100
    )
    # input 16, kept 32 + 32 + 24 + 64 = 152, element-wise 32 + 32 + 32 = 96, gradients 128 + 64 = 192
    ends = 2 * 10 * 100 + 5 * 8 * 8 + 2 * 100 * 8
    assert step_bytes(shape, NOTHING, 5, 10) == 5 * (3 * 248 + 192 + 96) + ends
    assert step_bytes(shape, RecomputePlan(True, 0), 5, 10) == 5 * (3 * 152 + 192 + 96) + ends
    assert step_bytes(shape, RecomputePlan(True, 1), 5, 10) == 5 * (2 * 152 + 16 + 192 + 248) + ends
    # The first of two stages keeps two micro-batches, and works on one.
    assert step_bytes(shape._replace(num_in_flight=2), NOTHING, 5, 10) == 5 * (2 * 3 * 248 + 192 + 96) + ends
    # In float32 everything is twice that, but for the 2 log-sum-exps of each layer.
    double = 2 * step_bytes(shape, NOTHING, 5, 10) - 5 * 3 * 4 * 2
    assert step_bytes(shape._replace(element_bytes=4), NOTHING, 5, 10) == double


def test_the_cheapest_plan_that_fits_is_taken() -> None:
    # 36 x 111,744 bytes x 16,384 tokens are 61.4 GiB, and 38.3 GiB without the element-wise results.
    assert plan(75) == NOTHING
    assert plan(55) == RecomputePlan(activations=True, num_full_layers=0)
    some = plan(30)
    assert some.activations
    assert 0 < some.num_full_layers < 36
    fewer = some._replace(num_full_layers=some.num_full_layers - 1)
    assert step_bytes(QWEN3_4B, some, 16384, 2048) <= 30 * GIB * 0.95 - GIB < step_bytes(QWEN3_4B, fewer, 16384, 2048)


def test_where_nothing_fits_all_layers_are_computed_again() -> None:
    assert plan(0.1) == RecomputePlan(activations=True, num_full_layers=36)


def test_less_memory_or_more_tokens_never_recompute_less() -> None:
    by_memory = [plan(gib) for gib in (90, 60, 45, 30, 20, 10, 1)]
    by_tokens = [plan(40, tokens) for tokens in (1024, 4096, 8192, 16384, 65536)]
    for plans in (by_memory, by_tokens):
        assert plans == sorted(plans)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("none", NOTHING), ("activations", RecomputePlan(True, 0)), ("full", RecomputePlan(True, 36))],
)
def test_other_policies_do_not_look_at_the_memory(policy: str, expected: RecomputePlan) -> None:
    assert plan(0.1, policy=policy) == plan(1000, policy=policy) == expected


def test_a_recipe_is_saved_in_place_of_the_tensor_and_gives_the_same_gradient() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    weight = torch.randn(5, 12, requires_grad=True)
    calls: list[int] = []

    def stretch(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.cat((x, 2 * x, 3 * x), dim=1)

    def loss(*, is_recipe: bool) -> torch.Tensor:
        wide = stretch(x)
        if is_recipe:
            recomputable(wide, lambda: stretch(x))
        with saving_recipes(wide):
            return (wide @ weight.t()).square().sum()

    expected = torch.autograd.grad(loss(is_recipe=False), (x, weight))
    calls.clear()
    output = loss(is_recipe=True)
    assert len(calls) == 1
    actual = torch.autograd.grad(output, (x, weight))
    assert len(calls) == 2
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_computed_together_is_computed_again_once() -> None:
    x = torch.randn(4, requires_grad=True)
    calls: list[int] = []

    def compute() -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        return x * 2, x * 3

    first, second = compute()
    recomputable_together((first, second), compute)
    with saving_recipes(first, second):
        product = first * second
    product.sum().backward()
    assert len(calls) == 2
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 12 * x.detach())


def test_the_memory_of_a_tensor_with_a_recipe_is_free_after_the_forward() -> None:
    x, weight = torch.randn(64, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    wide = torch.nn.functional.silu(x)
    storage = torch.multiprocessing.reductions.StorageWeakRef(wide.untyped_storage())
    recomputable(wide, lambda: torch.nn.functional.silu(x))
    with saving_recipes(wide):
        output = wide @ weight
    del wide
    assert storage.expired()
    output.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.nn.functional.silu(x.detach()).sum(0)[:, None].expand(8, 8))
