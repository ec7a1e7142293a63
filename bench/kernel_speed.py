"""What each kernel of a training step reaches on this GPU, at the shape of a Qwen3-4B layer and 16k tokens.

    python -m bench.kernel_speed [--tokens 16384] [--length 4096] [--only attention]

Matrix products and attention in TFLOP/s, element-wise kernels and the optimizer in GB/s of the bytes that must move,
each forward and backward; attention also against float64. A kernel that fails says so and the others go on. Nothing is
recorded: the numbers say where a step's time can be won.
"""

import argparse
import json
import math
import statistics
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HIDDEN, HEADS, GROUPS, DIM, FEED_FORWARD, VOCAB = 2560, 32, 8, 128, 9728, 151936
_ROUNDS = 7


def main() -> int:
    """Prints one JSON object; 1 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--length", type=int, default=4096, help="of the sequences")
    parser.add_argument("--only", choices=("products", "attention", "elementwise", "optimizer", "loss"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("kernel_speed: needs a GPU")
        return 1
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "products": _products,
        "attention": _attention,
        "elementwise": _elementwise,
        "optimizer": _optimizer,
        "loss": _loss,
    }
    results: dict[str, Any] = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name, part in parts.items():
        if arguments.only in (None, name):
            results[name] = part(arguments)
            torch.cuda.empty_cache()
    print(json.dumps(results, indent=1))
    return 0


def _milliseconds(call: Callable[[], object]) -> float:
    for _ in range(2):
        call()
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def _draw(*shape: int, requires_grad: bool = False) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_(requires_grad)


def _guarded(results: dict[str, Any], name: str, measure: Callable[[], object]) -> None:
    try:
        results[name] = measure()
    except Exception as error:  # noqa: BLE001 - the other kernels are still to be measured, and this one is named
        results[name] = f"{type(error).__name__}: {error}"[:300]
        traceback.print_exc()


def _products(arguments: argparse.Namespace) -> dict[str, Any]:
    """TFLOP/s of each linear layer: forward, gradients of input and weight, and the latter added up in float32."""
    results: dict[str, Any] = {}
    shapes = {
        "qkv": (HIDDEN, (HEADS + 2 * GROUPS) * DIM),
        "projection": (HEADS * DIM, HIDDEN),
        "gate and up": (HIDDEN, 2 * FEED_FORWARD),
        "down": (FEED_FORWARD, HIDDEN),
    }
    for name, (size_in, size_out) in shapes.items():
        x, weight, grad = _draw(arguments.tokens, size_in), _draw(size_out, size_in), _draw(arguments.tokens, size_out)
        total = torch.zeros(size_out, size_in, device="cuda")
        flops = 2e-9 * arguments.tokens * size_in * size_out
        for kind, call in {
            "forward": lambda x=x, weight=weight: x @ weight.t(),
            "input": lambda grad=grad, weight=weight: grad @ weight,
            "weight": lambda grad=grad, x=x: grad.t() @ x,
            "weight, then added": lambda grad=grad, x=x, total=total: total.add_(grad.t() @ x),
            "weight added in float32": lambda grad=grad, x=x, total=total: torch.addmm(
                total, grad.t(), x, out_dtype=torch.float32, out=total
            ),
        }.items():
            _guarded(results, f"{name}: {kind}", lambda call=call, flops=flops: round(flops / _milliseconds(call), 1))
    return results


def _attention(arguments: argparse.Namespace) -> dict[str, Any]:
    """TFLOP/s counted as in bench.sft_mfu, and the error of output and gradients against float64."""
    from megatron.core.transformer.enums import AttnBackend

    from rl_train.megatron.kernels.attention import HeadShape, choose_attention

    results: dict[str, Any] = {}
    for backend in (AttnBackend.flash, AttnBackend.auto):

        def measure(backend: Any = backend) -> dict[str, Any]:
            kernel = choose_attention(backend, HeadShape(HEADS, GROUPS, DIM), torch.bfloat16)
            row = _row([arguments.length] * (arguments.tokens // arguments.length))
            inputs = [_draw(arguments.tokens, heads, DIM, requires_grad=True) for heads in (HEADS, GROUPS, GROUPS)]
            scale = 1 / math.sqrt(DIM)
            grad = _draw(arguments.tokens, HEADS, DIM)
            output = kernel.attend(*inputs, row, scale)
            flops = 4e-9 * HEADS * DIM * arguments.tokens * arguments.length / 2
            with torch.no_grad():
                forward = _milliseconds(lambda: kernel.attend(*inputs, row, scale))
            backward = _milliseconds(lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True))
            return {
                "kernel": kernel.name,
                "forward": round(flops / forward, 1),
                "backward": round(2 * flops / backward, 1),
                "milliseconds": [round(forward, 3), round(backward, 3)],
                "errors": _attention_errors(kernel.attend, scale),
            }

        _guarded(results, f"--attention-backend {backend.name}", measure)
    return results


def _row(lengths: list[int]) -> Any:
    from megatron.core.packed_seq_params import PackedSeqParams

    bounds = torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)
    longest = max(lengths)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def _attention_errors(attend: Callable[..., Tensor], scale: float) -> list[float]:
    lengths = [300, 1, 77, 513, 5]
    inputs = [_draw(sum(lengths), heads, DIM, requires_grad=True) for heads in (HEADS, GROUPS, GROUPS)]
    exact = [one.detach().double().requires_grad_() for one in inputs]
    grad = _draw(sum(lengths), HEADS, DIM)
    parts: list[Tensor] = []
    for q, k, v in zip(*(one.split(lengths) for one in exact), strict=True):
        k, v = k.repeat_interleave(HEADS // GROUPS, 1), v.repeat_interleave(HEADS // GROUPS, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        mask = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(mask, -torch.inf).softmax(-1), v))
    expected = torch.cat(parts)
    output = attend(*inputs, _row(lengths), scale)
    actual = [output, *torch.autograd.grad(output, inputs, grad)]
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    return [round(float((a.double() - w).norm() / w.norm()), 5) for a, w in zip(actual, wanted, strict=True)]


def _elementwise(arguments: argparse.Namespace) -> dict[str, Any]:
    """GB/s of the bytes that a single pass must move."""
    from rl_train.megatron.kernels import choose_kernels

    results: dict[str, Any] = {}
    tokens, mixed = arguments.tokens, (HEADS + 2 * GROUPS) * DIM
    angles = torch.rand(tokens, DIM // 2, device="cuda")
    for name in ("plain", "fused"):
        kernels = choose_kernels(name)
        cases: dict[str, tuple[Callable[..., Any], list[Tensor], float, float]] = {
            "rms_norm": (
                lambda x, w, k=kernels: (k.rms_norm(x, w, 1e-6),),
                [_draw(tokens, 1, HIDDEN), _draw(HIDDEN)],
                4 * HIDDEN,
                6 * HIDDEN,
            ),
            "add_rms_norm": (
                lambda x, r, w, k=kernels: k.add_rms_norm(x, r, w, 1e-6),
                [_draw(tokens, 1, HIDDEN), _draw(tokens, 1, HIDDEN), _draw(HIDDEN)],
                8 * HIDDEN,
                8 * HIDDEN,
            ),
            "swiglu": (
                lambda x, k=kernels: (k.swiglu(x),),
                [_draw(tokens, 1, 2 * FEED_FORWARD)],
                6 * FEED_FORWARD,
                10 * FEED_FORWARD,
            ),
            "query_key_value": (
                lambda x, a, b, k=kernels: k.query_key_value(x, a, b, angles.cos(), angles.sin(), 1e-6),
                [_draw(tokens, GROUPS, HEADS // GROUPS + 2, DIM), _draw(DIM), _draw(DIM)],
                4 * mixed,
                6 * mixed,
            ),
        }
        for case, (call, inputs, forward_bytes, backward_bytes) in cases.items():

            def measure(
                call: Any = call, inputs: Any = inputs, moved: tuple[float, float] = (forward_bytes, backward_bytes)
            ) -> list[float]:
                given = [one.requires_grad_() for one in inputs]
                outputs = call(*given)
                grads = [torch.randn_like(one) for one in outputs]
                with torch.no_grad():
                    forward = _milliseconds(lambda: call(*given))
                backward = _milliseconds(lambda: torch.autograd.grad(outputs, given, grads, retain_graph=True))
                return [round(tokens * b / ms / 1e6, 1) for b, ms in zip(moved, (forward, backward), strict=True)]

            _guarded(results, f"{case}, {name}: forward, backward", measure)
    return results


def _optimizer(_: argparse.Namespace) -> dict[str, Any]:
    """GB/s of Adam and of the gradient's norm on the weights of a few layers, and of torch's own fused Adam."""
    from rl_train.megatron.kernels import choose_kernels

    shapes = [(2 * FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD), (HIDDEN, HEADS * DIM), (HIDDEN,)] * 6
    weights = [torch.randn(shape, device="cuda") for shape in shapes]
    rounded = {weight: weight.bfloat16() for weight in weights}
    size = sum(weight.numel() for weight in weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    results: dict[str, Any] = {}

    def measure(adam: Any, num_bytes: int) -> float:
        for weight in weights:
            adam.state[weight] = {
                "step": torch.zeros((), device="cuda" if adam.defaults["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        return round(num_bytes * size / _milliseconds(adam.step) / 1e6, 1)

    for name in ("plain", "fused"):
        adam = choose_kernels(name).adam(weights)
        adam.rounded = rounded
        _guarded(results, f"adam, {name}", lambda adam=adam: measure(adam, 30))
    _guarded(results, "adam, torch's fused", lambda: measure(torch.optim.AdamW(weights, fused=True), 28))
    grads = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm
    _guarded(results, "norm", lambda: round(4 * size / _milliseconds(lambda: norm(grads)) / 1e6, 1))
    return results


def _loss(arguments: argparse.Namespace) -> dict[str, Any]:
    """GB/s of a pass over the logits of a chunk, forward and backward."""
    from rl_train.megatron.kernels import choose_kernels
    from rl_train.megatron.kernels.plain import RowGradients

    results: dict[str, Any] = {}
    chunk = min(arguments.tokens, 2048)
    logits = _draw(chunk, VOCAB)
    targets = torch.randint(0, VOCAB, (chunk,), device="cuda")
    ones = torch.ones(chunk, device="cuda")
    for name in ("plain", "fused"):
        for needs_entropy in (False, True):
            kernels = choose_kernels(name)
            extra = ones if needs_entropy else None
            rows = RowGradients(targets, 20 * ones, ones, extra, extra)

            def measure(kernels: Any = kernels, rows: Any = rows, needs_entropy: bool = needs_entropy) -> list[float]:
                forward = _milliseconds(
                    lambda: kernels.row_statistics(logits, targets, 1.0, needs_entropy=needs_entropy)
                )
                backward = _milliseconds(lambda: kernels.logit_gradient(logits, rows, 1.0))
                moved = 2 * logits.numel()
                return [round(moved / forward / 1e6, 1), round(2 * moved / backward / 1e6, 1)]

            _guarded(results, f"{name}, entropy {needs_entropy}: forward, backward", measure)
    return results


if __name__ == "__main__":
    raise SystemExit(main())
