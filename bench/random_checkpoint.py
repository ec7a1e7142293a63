"""A Hugging Face model folder with random weights, for any configuration whose tensors rl_weights has rules for.

    python -m bench.random_checkpoint --config qwen3-4b --out DIR [--seed 0] [--dtype bfloat16] [--device cuda|cpu]

Weights are normal with the configuration's initializer_range, norms are 1. Each tensor is drawn by a generator of its
own, seeded by its name and --seed: equal seeds give equal bytes on one kind of device (CPU and GPU draw differently),
whatever the number of threads.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from bench.filler_tokenizer import EOS_ID, PAD_ID, save_filler_tokenizer
from bench.model_configs import model_config
from rl_weights.buckets import Bucket, plan_buckets
from rl_weights.hf import INDEX_FILE
from rl_weights.json_value import JsonValue
from rl_weights.rules import rules_for

_SHARD_BYTES = 2**29


def main() -> int:
    """Writes the folder, prints what is in it, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.random_checkpoint", description="A model folder with random weights."
    )
    parser.add_argument("--config", required=True, help="name of a known configuration, or a config.json")
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--std", type=float, help="standard deviation; default: initializer_range of the configuration")
    flags = parser.parse_args()
    if flags.out.exists() and (not flags.out.is_dir() or any(flags.out.iterdir())):
        parser.error(f"--out {flags.out}: expected a new or empty folder")
    started = time.perf_counter()
    try:
        config = model_config(flags.config)
        num_bytes = make_checkpoint(
            flags.out, config, seed=flags.seed, dtype=flags.dtype, device=flags.device, std=flags.std
        )
    except ValueError as error:
        parser.error(str(error))
    seconds = round(time.perf_counter() - started, 2)
    print(json.dumps({"folder": flags.out.name, "gib": round(num_bytes / 2**30, 3), "seconds": seconds}))
    return 0


def make_checkpoint(
    folder: Path,
    config: Mapping[str, JsonValue],
    *,
    seed: int = 0,
    dtype: str = "bfloat16",
    device: str = "cpu",
    std: float | None = None,
) -> int:
    """Writes config.json, shards with their index, and a tokenizer of the whole vocabulary; returns the weights' bytes.

    Args:
        folder: is made if it is not there.
        config: content of config.json; its end and padding tokens become the tokenizer's.
        seed: of the weights.
        dtype: torch's name of the weights' type.
        device: where they are drawn.
        std: standard deviation of all but the norms; default: initializer_range.

    Raises:
        CheckpointError: for an architecture without rules.
        ValueError: if the configuration gives no standard deviation, or has fewer tokens than the tokenizer.
    """
    spread = config.get("initializer_range") if std is None else std
    vocab_size = config.get("vocab_size")
    if not isinstance(spread, float) or not isinstance(vocab_size, int):
        raise ValueError(
            f"config.json: expected numbers initializer_range and vocab_size, got {spread!r} and {vocab_size!r}"
        )
    specs = [
        (name, dtype, shape)
        for rule in rules_for(config)
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True)
    ]
    shards = plan_buckets(specs, _SHARD_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]

    def write(file: str, shard: Bucket) -> None:
        drawn = {name: _draw(name, shape, dtype, spread, seed, device) for name, _, shape in shard.specs}
        save_file(drawn, folder / file, metadata={"format": "pt"})

    with ThreadPoolExecutor(8 if device != "cpu" else min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(write, files, shards))
    num_bytes = sum(shard.num_bytes for shard in shards)
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name, _, _ in shard.specs}
    _write_json(folder / INDEX_FILE, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
    _write_json(folder / "config.json", {**config, "dtype": dtype, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID})
    save_filler_tokenizer(folder, vocab_size)
    return num_bytes


def _draw(name: str, shape: tuple[int, ...], dtype: str, std: float, seed: int, device: str) -> torch.Tensor:
    """[shape] on the CPU; drawn on `device`."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=getattr(torch, dtype))
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    if device == "cpu":  # five times as fast as torch's generator there
        normal = np.random.Generator(np.random.SFC64(number)).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(normal).mul_(std).to(getattr(torch, dtype))  # pyright: ignore[reportUnknownMemberType]
    tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
    return tensor.normal_(0, std, generator=torch.Generator(device).manual_seed(number)).cpu()


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
