"""How far a version of the kernels is from plain torch in float64, for the tests of any version on any device."""

# pyright: standard
# It hands lambdas on differently many tensors around; strict, each of them would have to be a typed function.

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rl_train.megatron.kernels import PLAIN, Kernels
from rl_train.megatron.kernels.plain import RowGradients


class Sizes(NamedTuple):
    """What is compared: none of the numbers needs to be a power of two, but half of the head dimension's."""

    tokens: int = 13
    hidden: int = 72
    feed_forward: int = 200
    groups: int = 2
    queries: int = 3
    head_dim: int = 16
    vocab: int = 203


def differences(kernels: Kernels, device: str, dtype: torch.dtype, sizes: Sizes | None = None) -> Mapping[str, float]:
    """Norm of the difference over the norm of the reference, of every output and gradient.

    The reference is the plain version in float64 on the same inputs, rounded to `dtype` before.
    """
    chosen = sizes or Sizes()
    draw = _Drawer(device, dtype)
    return {
        **_norm(kernels, chosen, draw),
        **_norm_and_input(kernels, chosen, draw),
        **_add_norm(kernels, chosen, draw),
        **_swiglu(kernels, chosen, draw),
        **_query_key_value(kernels, chosen, draw),
    } | {
        **_loss(kernels, chosen, draw, needs_entropy=True),
        **_loss(kernels, chosen, draw, needs_entropy=False),
        **_product(kernels, chosen, draw),
        **_adam(kernels, chosen, draw),
    }


class _Drawer:
    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.device, dtype or self.dtype)

    def targets(self, count: int, vocab: int) -> Tensor:
        """Some of them on another rank."""
        return torch.randint(-1, vocab, (count,), generator=self._generator).to(self.device)


def _error(actual: Tensor, expected: Tensor) -> float:
    wanted = expected.detach().double()
    return float((actual.detach().double() - wanted).norm() / wanted.norm().clamp(min=1e-12))


def _compare(
    name: str,
    function: Callable[..., tuple[Tensor, ...]],
    reference: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    draw: _Drawer,
) -> dict[str, float]:
    given = [one.clone().requires_grad_() for one in inputs]
    exact = [one.double().requires_grad_() for one in inputs]
    outputs, expected = function(*given), reference(*exact)
    grads = [draw(*one.shape) for one in outputs]
    torch.autograd.backward(outputs, grads)
    torch.autograd.backward(expected, [one.double() for one in grads])
    result = {f"{name} output {n}": _error(a, e) for n, (a, e) in enumerate(zip(outputs, expected, strict=True))}
    for number, (actual, wanted) in enumerate(zip(given, exact, strict=True)):
        assert actual.grad is not None
        assert wanted.grad is not None
        result[f"{name} gradient {number}"] = _error(actual.grad, wanted.grad)
    return result


def _norm(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    inputs = draw(sizes.tokens, 1, sizes.hidden), draw(sizes.hidden)
    return _compare(
        "rms_norm",
        lambda x, weight: (kernels.rms_norm(x, weight, 1e-6),),
        lambda x, weight: (PLAIN.rms_norm(x, weight, 1e-6),),
        inputs,
        draw,
    )


def _norm_and_input(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    return _compare(
        "rms_norm_and_input",
        lambda x, weight: kernels.rms_norm_and_input(x, weight, 1e-6),
        lambda x, weight: PLAIN.rms_norm_and_input(x, weight, 1e-6),
        (draw(sizes.tokens, 1, sizes.hidden), draw(sizes.hidden)),
        draw,
    )


def _add_norm(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    return _compare(
        "add_rms_norm",
        lambda x, residual, weight: kernels.add_rms_norm(x, residual, weight, 1e-6),
        lambda x, residual, weight: PLAIN.add_rms_norm(x, residual, weight, 1e-6),
        (draw(sizes.tokens, 1, sizes.hidden), 3 * draw(sizes.tokens, 1, sizes.hidden), draw(sizes.hidden)),
        draw,
    )


def _swiglu(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    inputs = (draw(sizes.tokens, 1, 2 * sizes.feed_forward),)
    return _compare("swiglu", lambda x: (kernels.swiglu(x),), lambda x: (PLAIN.swiglu(x),), inputs, draw)


def _query_key_value(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    mixed = draw(sizes.tokens, sizes.groups, sizes.queries + 2, sizes.head_dim)
    angles = draw(sizes.tokens, sizes.head_dim // 2, dtype=torch.float32)
    cos, sin = angles.cos(), angles.sin()
    return _compare(
        "query_key_value",
        lambda x, wq, wk: kernels.query_key_value(x, wq, wk, cos, sin, 1e-6),
        lambda x, wq, wk: _exact_query_key_value(x, wq, wk, cos.double(), sin.double()),
        (mixed, draw(sizes.head_dim), draw(sizes.head_dim)),
        draw,
    )


def _exact_query_key_value(
    mixed: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """In complex numbers: the two halves of a head are real and imaginary part, and the rotation is a product."""
    turn = torch.polar(torch.ones_like(cos), torch.atan2(sin, cos))[:, None]

    def turned(x: Tensor, weight: Tensor) -> Tensor:
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
        result = torch.complex(*normed.chunk(2, dim=-1)) * turn
        return torch.cat((result.real, result.imag), dim=-1)

    queries = mixed[:, :, :-2].flatten(1, 2)
    return turned(queries, query_weight), turned(mixed[:, :, -2], key_weight), mixed[:, :, -1]


def _loss(kernels: Kernels, sizes: Sizes, draw: _Drawer, *, needs_entropy: bool) -> dict[str, float]:
    """Values and gradients against autograd through a dense log-softmax, at a temperature that is not 1."""
    temperature, name = 0.8, f"loss, entropy {needs_entropy}"
    logits, targets = 3 * draw(sizes.tokens, sizes.vocab), draw.targets(sizes.tokens, sizes.vocab)
    exact = logits.double().requires_grad_()
    scaled = exact / temperature
    log_p = scaled.log_softmax(-1)
    is_here = (targets >= 0).double()
    target_logits = scaled.gather(1, targets.clamp(min=0)[:, None])[:, 0] * is_here
    entropy = -(log_p.exp() * log_p).sum(-1)
    statistics = kernels.row_statistics(logits, targets, temperature, needs_entropy=needs_entropy)
    log_norm = statistics.largest + statistics.total.log()
    grads = [draw(sizes.tokens, dtype=torch.float32) for _ in range(2)]
    expected = (grads[0] * (target_logits - scaled.logsumexp(-1))).sum()
    expected = expected + (grads[1] * entropy).sum() if needs_entropy else expected
    expected.backward()
    assert exact.grad is not None
    result = {
        f"{name}: log norm": _error(log_norm, scaled.detach().logsumexp(-1)),
        f"{name}: target": _error(statistics.target, target_logits.detach()),
    }
    own_entropy = log_norm - statistics.weighted / statistics.total
    if needs_entropy:
        result[f"{name}: entropy"] = _error(own_entropy, entropy.detach())
    rows = RowGradients(
        targets, log_norm, grads[0], own_entropy if needs_entropy else None, grads[1] if needs_entropy else None
    )
    result[f"{name}: gradient"] = _error(kernels.logit_gradient(logits.clone(), rows, temperature), exact.grad)
    return result


def _product(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    total, a, b = draw(sizes.vocab, sizes.hidden), draw(sizes.tokens, sizes.vocab), draw(sizes.tokens, sizes.hidden)
    total = total.float()
    expected = total.double() + a.double().t() @ b.double()
    kernels.add_product(total, a, b)
    fresh = torch.full_like(total, torch.nan)
    kernels.add_product(fresh, a, b, is_first=True)
    return {
        "add_product": _error(total, expected),
        "add_product, first": _error(fresh, a.double().t() @ b.double()),
    }


def _adam(kernels: Kernels, sizes: Sizes, draw: _Drawer) -> dict[str, float]:
    """Three steps, of which the second has a gradient that is not finite, against torch's AdamW in float64."""
    given = draw(sizes.hidden, sizes.vocab, dtype=torch.float32)
    exact = given.double()
    adam = kernels.adam([given], lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    rounded = given.to(draw.dtype)
    adam.rounded = {given: rounded}
    reference = torch.optim.AdamW([exact], lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    adam.state[given] = {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(given),
        "exp_avg_sq": torch.zeros_like(given),
    }
    for factor in (0.5, torch.nan, 1.0):
        given.grad = draw(sizes.hidden, sizes.vocab, dtype=torch.float32)
        exact.grad = given.grad.double() * factor
        adam.factor = torch.tensor(factor, device=draw.device)
        adam.step()
        if factor == factor:
            reference.step()
        else:
            adam.forget_step()
    state, wanted = adam.state[given], reference.state[exact]
    assert float(state["step"]) == float(wanted["step"]) == 2
    return {
        "adam: weight": _error(given, exact),
        "adam: rounded weight": _error(rounded, exact),
        "adam: mean": _error(state["exp_avg"], wanted["exp_avg"]),
        "adam: square": _error(state["exp_avg_sq"], wanted["exp_avg_sq"]),
    }
