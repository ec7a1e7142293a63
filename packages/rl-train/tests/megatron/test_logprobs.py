"""Chunked log-probabilities against a dense log-softmax."""

import pytest
import torch
from torch import Tensor

from rl_train.megatron.logprobs import TokenLogprobs, token_logprobs

N, H, V = 11, 6, 23


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, V, (N,), generator=generator)


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk_size: int, entropy: bool = True) -> TokenLogprobs:
    return token_logprobs(
        hidden,
        weight,
        targets,
        temperature=0.8,
        needs_entropy=entropy,
        chunk_size=chunk_size,
        vocab_start=0,
        group=None,
    )


def dense(hidden: Tensor, weight: Tensor, targets: Tensor) -> TokenLogprobs:
    scores = ((hidden @ weight.t()).float() / 0.8).log_softmax(-1)
    return TokenLogprobs(scores.gather(1, targets[:, None])[:, 0], -(scores.exp() * scores).sum(-1))


def weighted_sum(output: TokenLogprobs) -> Tensor:
    """Every token counts differently, so that a token's gradient cannot stand for another's."""
    weights = torch.linspace(-1, 2, len(output.logprobs))
    return (weights * output.logprobs).sum() + (weights.flip(0) * output.entropy).sum()


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_values_and_gradients_are_those_of_a_dense_log_softmax(chunk_size: int) -> None:
    expected_inputs, actual_inputs = inputs(), inputs()
    expected, actual = dense(*expected_inputs), chunked(*actual_inputs, chunk_size=chunk_size)
    # Logits are float32, and gradients of size 1 to 10 are sums of them.
    torch.testing.assert_close(actual.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actual.entropy, expected.entropy, rtol=1e-5, atol=1e-6)
    weighted_sum(expected).backward()
    weighted_sum(actual).backward()
    for expected_input, actual_input in zip(expected_inputs[:2], actual_inputs[:2], strict=True):
        torch.testing.assert_close(actual_input.grad, expected_input.grad, rtol=1e-5, atol=1e-5)


def test_a_uniform_distribution_has_the_logarithm_of_its_size_as_entropy() -> None:
    hidden, weight, targets = torch.zeros(3, H), torch.randn(V, H), torch.arange(3)
    output = chunked(hidden, weight, targets, chunk_size=2)
    expected = torch.full((3,), torch.tensor(float(V)).log().item())
    torch.testing.assert_close(output.entropy, expected)
    torch.testing.assert_close(output.logprobs, -expected)


def test_entropy_that_was_not_asked_for_is_zero_and_gives_no_gradient() -> None:
    output = chunked(*inputs(), chunk_size=4, entropy=False)
    assert (output.entropy == 0).all()
    assert not output.entropy.requires_grad


def test_a_row_without_tokens_gives_zero_gradients_and_keeps_the_graph() -> None:
    """Pipeline stages wait for the gradient of every micro-batch, trained or not."""
    hidden, weight, _ = inputs()
    output = chunked(hidden[:0], weight, torch.zeros(0, dtype=torch.int64), chunk_size=4)
    output.logprobs.sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 0).all()
    assert hidden.grad is not None


def test_logits_of_the_whole_row_are_never_kept() -> None:
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chunked(*inputs(), chunk_size=4)
    assert sizes
    assert max(sizes) <= max(N * H, V * H)


@pytest.mark.parametrize("chunk_size", [4, 100])
def test_a_gradient_that_is_known_before_gives_the_same_gradients_in_the_forward(chunk_size: int) -> None:
    known = torch.linspace(-1, 2, N)
    results = []
    for given in (None, known):
        hidden, weight, targets = inputs(torch.float32)
        total = torch.ones_like(weight)
        output = token_logprobs(
            hidden,
            weight,
            targets,
            temperature=0.8,
            needs_entropy=False,
            chunk_size=chunk_size,
            gradient_sum=total,
            known_gradient=given,
        )
        (known * output.logprobs).sum().backward()
        assert weight.grad is None
        results.append((output.logprobs.detach(), hidden.grad, total.detach()))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_a_weights_gradient_is_added_to_the_sum_that_is_given() -> None:
    hidden, weight, targets = inputs(torch.float32)
    weighted_sum(chunked(hidden, weight, targets, chunk_size=4)).backward()
    expected = weight.grad
    assert expected is not None
    hidden, weight, targets = inputs(torch.float32)
    total = torch.ones(V + 2, H)  # with two rows of padding
    padded = torch.cat((weight.detach(), torch.full((2, H), torch.nan))).requires_grad_()
    output = token_logprobs(
        hidden, padded, targets, temperature=0.8, needs_entropy=True, chunk_size=4, num_rows=V, gradient_sum=total
    )
    weighted_sum(output).backward()
    torch.testing.assert_close(total[:V], expected + 1, rtol=1e-5, atol=1e-5)
    assert (total[V:] == 1).all()
    assert padded.grad is None


def test_half_precision_weights_get_gradients_summed_in_float32() -> None:
    exact, rounded = inputs(torch.float32), inputs(torch.bfloat16)
    for given in (exact, rounded):
        weighted_sum(chunked(*given, chunk_size=1)).backward()
    assert rounded[1].grad is not None
    assert exact[1].grad is not None
    assert rounded[1].grad.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: inputs, logits and chunks are each rounded to 0.4 %.
    error = (rounded[1].grad.float() - exact[1].grad).norm() / exact[1].grad.norm()
    assert error < 0.02
