"""Memory that the loss takes at a large vocabulary over a small one.

    python -m bench.loss_extra_gib [--tokens 16384] [--hidden 2560] [--vocab 151936] [--small-vocab 1000]

Log-probabilities forward and backward from hidden states, as the trainer computes them: the output layer's weight in
bfloat16, its gradient added to a float32 buffer. The peak of each vocabulary counts everything: hidden states and their
gradient, the weight, its gradient buffer and what the computation needs besides. The record is the difference;
`details` also has it without weight and buffer, which the model has anyway.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from bench.record import add_out_flag, measured, report
from rl_train.megatron.config import MegatronTrainerConfig
from rl_train.megatron.kernels import Kernels, choose_kernels
from rl_train.megatron.logprobs import token_logprobs

_GIB = 2.0**30
_TIMED = 3


def main() -> int:
    """Measures both vocabularies; 1 without a GPU, where memory is not counted."""
    arguments = _arguments()
    if not torch.cuda.is_available():
        print("loss_extra_gib: needs a GPU, whose allocator counts memory")
        return 1
    kernels = choose_kernels(arguments.kernels)
    large, small = (
        [_measure(arguments, vocab, kernels, needs_entropy=needs_entropy) for needs_entropy in (False, True)]
        for vocab in (arguments.vocab, arguments.small_vocab)
    )
    extra = max(one["peak_gib"] for one in large) - max(one["peak_gib"] for one in small)
    report([measured("loss_extra_gib", extra, "GiB")], {"large": large, "small": small}, arguments.out)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--hidden", type=int, default=2560)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--small-vocab", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=MegatronTrainerConfig().log_probs_chunk_size)
    parser.add_argument("--kernels", choices=("auto", "plain", "fused"), default="auto")
    add_out_flag(parser)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, vocab: int, kernels: Kernels, *, needs_entropy: bool) -> dict[str, Any]:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    draw = torch.Generator(device="cuda").manual_seed(0)
    hidden = torch.randn(arguments.tokens, arguments.hidden, device="cuda", generator=draw).bfloat16().requires_grad_()
    weight = torch.empty(vocab, arguments.hidden, device="cuda", dtype=torch.bfloat16)
    weight.normal_(std=0.02, generator=draw).requires_grad_()
    targets = torch.randint(0, vocab, (arguments.tokens,), device="cuda", generator=draw)
    gradient_sum = torch.zeros(vocab, arguments.hidden, device="cuda")
    torch.cuda.reset_peak_memory_stats()

    def once() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        output = token_logprobs(
            hidden,
            weight,
            targets,
            temperature=1.0,
            needs_entropy=needs_entropy,
            chunk_size=arguments.chunk,
            gradient_sum=gradient_sum,
            kernels=kernels,
        )
        loss = -output.logprobs.mean()
        (loss - 0.01 * output.entropy.mean() if needs_entropy else loss).backward()
        hidden.grad = None
        torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds = [once() for _ in range(_TIMED + 1)][1:]
    peak = torch.cuda.max_memory_allocated() - before
    own = weight.numel() * (weight.element_size() + gradient_sum.element_size())
    return {
        "vocab": vocab,
        "needs_entropy": needs_entropy,
        "kernels": kernels.name,
        "chunk": arguments.chunk,
        "peak_gib": peak / _GIB,
        "peak_without_weight_gib": (peak - own) / _GIB,
        "seconds": statistics.median(seconds),
    }


if __name__ == "__main__":
    raise SystemExit(main())
