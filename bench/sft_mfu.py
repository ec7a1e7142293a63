"""Supervised fine-tuning at full size on one device: seconds a step, tokens/s and the share of the card's peak.

    python -m bench.sft_mfu --model FOLDER [--lengths 4096x4] [--setting kernels=fused,recompute=auto ...] [--profile]

One trainer rank takes optimizer steps on packed random sequences, every token but a sequence's first trained. Each
setting runs in a process of its own, so that the failure of one loses no other; the record is the fastest's.

Model FLOPs of a step, whatever is recomputed:

    6 x parameters x tokens + 12 x layers x heads x head_dim x sum over sequences of L^2 / 2

Parameters count tied embeddings once (as the output layer) and leave out an input embedding of its own, which is looked
up and not multiplied. The second term is attention's: two products of L x L x head_dim for each head, causal (half), at
2 FLOPs a multiply-add, forward once and backward twice. The share is of `--peak-tflops`, 989 for dense bfloat16 on H100
and H200.

A setting is a list of name=value with the names kernels (auto, plain, fused), attention (auto, flash),
recompute (auto, none, activations, full), tokens (of a micro-batch), chunk (tokens whose logits exist at once), wgrad
(weight gradients are added up by the matrix product: fused, or after it: plain).
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.profiles import profile
from bench.record import Record, add_out_flag, measured, report
from rl_data import Microbatch, TrainBatch

RESULT_MARK = "sft_mfu result: "
DEFAULTS = {
    "kernels": "auto",
    "attention": "auto",
    "recompute": "auto",
    "tokens": "16384",
    "chunk": "2048",
    "wgrad": "fused",
}


def main() -> int:
    """Measures every setting and prints the records; 1 if all settings failed."""
    arguments = _arguments()
    if arguments.worker:
        print(RESULT_MARK + json.dumps(_measure(arguments, _settings_of(arguments.setting[0]))))
        return 0
    runs = [_run_apart(arguments, setting) for setting in arguments.setting]
    done = [run for run in runs if "error" not in run]
    report(_records(done), {"settings": runs}, arguments.out)
    return 0 if done else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--lengths", default="4096x4", help="sequence lengths of a step, for example 4096x3,1024x4")
    parser.add_argument("--setting", action="append", help="name=value,...; repeat it to compare", default=[])
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--profile", action="store_true", help="add the kernels of one more step to the details")
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--timeout-s", type=float, default=400.0, help="for each setting")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_out_flag(parser)
    arguments = parser.parse_args()
    arguments.setting = arguments.setting or [""]
    for setting in arguments.setting:
        _settings_of(setting)
    return arguments


def _settings_of(text: str) -> dict[str, str]:
    given = dict(pair.split("=", 1) for pair in text.split(",") if pair)
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        raise SystemExit(f"--setting {text}: expected names among {', '.join(DEFAULTS)}, got {', '.join(unknown)}")
    return {**DEFAULTS, **given}


def _run_apart(arguments: argparse.Namespace, setting: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.sft_mfu", "--worker", "--model", str(arguments.model)]
    command += ["--lengths", arguments.lengths, "--setting", setting, "--warmup", str(arguments.warmup)]
    command += ["--steps", str(arguments.steps), "--peak-tflops", str(arguments.peak_tflops)]
    command += ["--profile"] if arguments.profile else []
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTHONUNBUFFERED": "1", **os.environ}
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, timeout=arguments.timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"none after {arguments.timeout_s} s"
        output.seek(0)
        text = output.read()
    for line in text.splitlines():
        if line.startswith(RESULT_MARK):
            return json.loads(line.removeprefix(RESULT_MARK))
    return {"setting": _settings_of(setting), "error": f"exit code {code}", "output": text[-3000:]}


def _records(done: Sequence[Mapping[str, Any]]) -> list[Record]:
    if not done:
        return []
    best = min(done, key=lambda run: run["seconds"])
    return [
        measured("sft_mfu", best["mfu"], "fraction of peak"),
        measured("sft_tokens_per_s", best["tokens_per_s"], "tokens/s"),
        measured("sft_peak_gib", best["peak_allocated_gib"], "GiB"),
    ]


def _measure(arguments: argparse.Namespace, setting: Mapping[str, str]) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from rl_train.megatron.cpu import enable_cpu_support

    logging.getLogger("rl_train").setLevel(logging.INFO)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    is_cpu = enable_cpu_support()
    from rl_train.megatron.trainer import MegatronTrainer

    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)
        dist.init_process_group("gloo" if is_cpu else "nccl", store=store, rank=0, world_size=1)
        started = time.perf_counter()
        trainer = _make_trainer(MegatronTrainer, arguments.model, setting)
        start_s = time.perf_counter() - started
        config = json.loads((arguments.model / "config.json").read_text())
        lengths = _lengths(arguments.lengths)
        batch = _batch(lengths, int(setting["tokens"]), config["vocab_size"])
        steps = [trainer.train_step(batch) for _ in range(arguments.warmup)]
        if not is_cpu:
            torch.cuda.synchronize()
        timed = []
        for _ in range(arguments.steps):
            began = time.perf_counter()
            steps.append(trainer.train_step(batch))
            if not is_cpu:
                torch.cuda.synchronize()
            timed.append(time.perf_counter() - began)
        gib = 2.0**30
        peaks = (
            (torch.cuda.max_memory_allocated() / gib, torch.cuda.max_memory_reserved() / gib) if not is_cpu else (0, 0)
        )
        profiled = profile(lambda: trainer.train_step(batch)) if arguments.profile else None
        num_parameters = multiplied_parameters(config)
        chosen = trainer.chosen
        trainer.close()
    seconds = statistics.median(timed)
    flops = step_flops(config, num_parameters, lengths)
    return {
        "setting": dict(setting),
        "chosen": chosen,
        "lengths": arguments.lengths,
        "num_microbatches": len(batch.microbatches[0]),
        "mfu": flops / seconds / (arguments.peak_tflops * 1e12),
        "tflops_per_step": flops / 1e12,
        "seconds": seconds,
        "all_seconds": [round(one, 4) for one in timed],
        "tokens_per_s": sum(lengths) / seconds,
        "phases_s": {
            name: statistics.median(step.seconds[name] for step in steps[arguments.warmup :])
            for name in steps[0].seconds
        },
        "start_s": start_s,
        "peak_allocated_gib": peaks[0],
        "peak_reserved_gib": peaks[1],
        "losses": [round(step.loss, 5) for step in steps],
        "grad_norms": [round(step.grad_norm, 5) for step in steps],
        "profile": profiled,
    }


def _make_trainer(kind: Any, model: Path, setting: Mapping[str, str]) -> Any:
    import torch

    from rl_train.algorithms import sft_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.config import MegatronTrainerConfig

    config = json.loads((model / "config.json").read_text())
    flags = [
        "--lr",
        "1e-5",
        "--lr-decay-style",
        "constant",
        "--clip-grad",
        "1.0",
        "--attention-backend",
        setting["attention"],
    ]
    flags += ["--bf16"] if torch.cuda.is_available() else []
    flags += ["--no-gradient-accumulation-fusion"] if setting["wgrad"] == "plain" else []
    return kind(
        arguments=parse_megatron_args(flags, model_config=config, world_size=1),
        model_config=config,
        weights=model,
        loss=sft_loss,
        config=MegatronTrainerConfig(
            log_probs_chunk_size=int(setting["chunk"]),
            trainer_kernels=setting["kernels"],  # pyright: ignore[reportArgumentType]
            recompute_policy=setting["recompute"],  # pyright: ignore[reportArgumentType]
        ),
    )


def _lengths(text: str) -> list[int]:
    """ "4096x3,100" as [4096, 4096, 4096, 100]."""
    lengths: list[int] = []
    for part in text.split(","):
        length, _, count = part.partition("x")
        lengths += [int(length)] * int(count or 1)
    return lengths


def _batch(lengths: Sequence[int], tokens_per_microbatch: int, vocab_size: int) -> TrainBatch:
    """Random sequences, packed in their order."""
    rng = np.random.default_rng(0)
    rows: list[list[int]] = [[]]
    for length in lengths:
        if rows[-1] and sum(rows[-1]) + length > tokens_per_microbatch:
            rows.append([])
        rows[-1].append(length)
    num_loss_tokens = sum(lengths) - len(lengths)
    return TrainBatch(
        microbatches=(tuple(_microbatch(row, vocab_size, num_loss_tokens, rng) for row in rows),),
        num_samples=len(lengths),
        num_loss_tokens=num_loss_tokens,
        num_tokens=sum(lengths),
    )


def _microbatch(lengths: Sequence[int], vocab_size: int, num_loss_tokens: int, rng: np.random.Generator) -> Microbatch:
    positions = np.concatenate([np.arange(length) for length in lengths])
    zeros = np.zeros(len(positions), dtype=np.float32)
    return Microbatch(
        tokens=rng.integers(0, vocab_size, len(positions)),
        position_ids=positions,
        cu_seqlens=np.cumsum([0, *lengths]).astype(np.int32),
        loss_weights=np.where(positions > 0, 1 / num_loss_tokens, 0).astype(np.float32),
        advantages=zeros,
        rollout_logprobs=zeros,
    )


def multiplied_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a Qwen3 model without an input embedding of its own; 4,022,468,096 of Qwen3-4B."""
    hidden, dim = config["hidden_size"], config["head_dim"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    attention = 2 * hidden * heads * dim + 2 * hidden * groups * dim + 2 * dim
    feed_forward = 3 * hidden * config["intermediate_size"]
    layer = attention + feed_forward + 2 * hidden
    return config["num_hidden_layers"] * layer + hidden + config["vocab_size"] * hidden


def step_flops(config: Mapping[str, Any], num_parameters: int, lengths: Sequence[int]) -> float:
    """The formula of the module's docstring."""
    heads, head_dim = config["num_attention_heads"], config["head_dim"]
    squares = sum(length * length / 2 for length in lengths)
    attention = 12 * config["num_hidden_layers"] * heads * head_dim * squares
    return 6.0 * num_parameters * sum(lengths) + attention


if __name__ == "__main__":
    raise SystemExit(main())
