"""How far engine and trainer are from the log-probabilities that float32 gives, beside what bf16 alone costs.

    python -m bench.logprob_noise --model FOLDER --samples RUN/samples.jsonl [--step 1] [--num-samples 16]

Rounding in bf16 moves a log-probability by an amount that depends on the weights: with random weights, whose tokens are
all about equally likely, by several times what it does in a trained model. So the difference of engine and trainer says
little alone. This program takes samples that an engine drew from a checkpoint (of step 1 of a GRPO run, whose weights
are still those of the model folder) and computes their log-probabilities by transformers in float32, the reference, by
transformers in bf16, and by the trainer. For each pair it prints the mean absolute and the mean difference over the
response tokens: a pair of bf16 programs that both compute the right formula is about as far apart as either is from the
reference, and the mean is near 0. Nothing is recorded.
"""

# pyright: standard
# transformers and Megatron are annotated in part only.

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.grpo_floor import read_groups
from bench.record import report
from rl_data import Sample, pack

_CHUNK = 512
_PAIRS = (
    ("plain_bf16", "reference"),
    ("engine", "reference"),
    ("trainer", "reference"),
    ("engine", "trainer"),
    ("plain_bf16", "trainer"),
)


def main() -> int:
    """Computes and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.logprob_noise", description="Engine and trainer beside float32."
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--samples", type=Path, required=True, help="samples.jsonl of a run that started from it")
    parser.add_argument("--step", type=int, default=1, help="whose samples the model's weights drew")
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=1.0, help="at which they were drawn")
    flags = parser.parse_args()
    everything = itertools.chain.from_iterable(group.samples for group in read_groups(flags.samples, flags.step))
    samples = list(itertools.islice(everything, flags.num_samples))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {
        "engine": np.concatenate([sample.rollout_logprobs[sample.prompt_length :] for sample in samples]),
        "reference": _by_transformers(flags, samples, torch.float32, device),
        "plain_bf16": _by_transformers(flags, samples, torch.bfloat16, device),
    }
    # Last: on a CPU the trainer changes torch for the whole process.
    with contextlib.redirect_stdout(sys.stderr):  # Megatron has something to say
        found["trainer"] = _by_trainer(flags, samples)
    details = {
        "num_tokens": len(found["engine"]),
        "mean_logprob": float(found["reference"].mean()),
        "pairs": {f"{one} - {other}": _difference(found[one] - found[other]) for one, other in _PAIRS},
    }
    report([], details, None)
    return 0


def _difference(values: np.ndarray) -> dict[str, float]:
    return {
        "mean_abs": float(np.abs(values).mean()),
        "mean": float(values.mean()),
        "max_abs": float(np.abs(values).max()),
    }


@torch.no_grad()
def _by_transformers(
    flags: argparse.Namespace, samples: Sequence[Sample], dtype: torch.dtype, device: str
) -> np.ndarray:
    """Log-probabilities of all response tokens; the output layer is multiplied in float32 in any case."""
    from transformers import AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = False
    model: Any = AutoModelForCausalLM.from_pretrained(flags.model, dtype=dtype, attn_implementation="sdpa")
    model.to(device)
    weight = model.lm_head.weight.float()
    rows: list[torch.Tensor] = []
    for sample in samples:
        tokens = torch.from_numpy(sample.tokens.astype(np.int64)).to(device)
        hidden = model.model(tokens[None]).last_hidden_state[0, sample.prompt_length - 1 : -1]
        targets = tokens[sample.prompt_length :]
        rows += list(_token_logprobs(hidden, targets, weight, flags.temperature))
    result = torch.cat(rows).cpu().numpy()
    del model, weight, rows
    if device == "cuda":
        torch.cuda.empty_cache()
    return result


def _token_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, temperature: float
) -> Iterator[torch.Tensor]:
    for some, target in zip(hidden.split(_CHUNK), targets.split(_CHUNK), strict=True):
        logits = some.float() @ weight.T / temperature
        yield logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def _by_trainer(flags: argparse.Namespace, samples: Sequence[Sample]) -> np.ndarray:
    import torch.distributed as dist

    from rl_train.algorithms import sft_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.cpu import enable_cpu_support

    is_cpu = enable_cpu_support()
    from rl_train.megatron.trainer import MegatronTrainer

    config = json.loads((flags.model / "config.json").read_text())
    argv = ["--lr-decay-style", "constant", *([] if is_cpu else ["--bf16"])]
    batch = pack(samples, num_ranks=1, max_tokens=max(len(sample.tokens) for sample in samples))
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo" if is_cpu else "nccl", store=store, rank=0, world_size=1)
        trainer = MegatronTrainer(
            arguments=parse_megatron_args(argv, model_config=config, world_size=1),
            model_config=config,
            weights=flags.model,
            loss=sft_loss,
            temperature=flags.temperature,
        )
        (rows,) = trainer.compute_logprobs(batch)
        trainer.close()
    return _in_order(samples, batch.microbatches[0], rows)


def _in_order(samples: Sequence[Sample], microbatches: Sequence[Any], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Packing sorts samples by its own lights; they are found again by their tokens."""
    by_tokens: dict[bytes, np.ndarray] = {}
    for microbatch, row in zip(microbatches, rows, strict=True):
        for start, stop in itertools.pairwise(microbatch.cu_seqlens.tolist()):
            by_tokens[microbatch.tokens[start:stop].astype(np.int64).tobytes()] = row[start:stop]
    found = [by_tokens[sample.tokens.astype(np.int64).tobytes()][sample.prompt_length :] for sample in samples]
    return np.concatenate(found)


if __name__ == "__main__":
    sys.exit(main())
