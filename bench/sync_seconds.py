"""Seconds to hand all weights of a Megatron trainer to a SGLang engine on the same GPU, end to end; prints JSON.

    python -m bench.sync_seconds --model DIR [--bucket-mib 256 512 1024 2048] [--publishes 10] [--out bench/results]

The value is the median, over --publishes after two to warm up, of what the caller of `TrainerGroup.publish` waits: the
weights are whole in the engine then, and its cache is flushed. The fastest bucket size counts. Beforehand the engine's
weights are random (`load_format: dummy`). Afterwards every tensor in the engine is compared with the trainer's, value
by value, the engine gives its memory up and takes its weights' back, is published to before its KV cache is back, and
then draws responses whose log-probabilities are compared with the trainer's. The trainer has given up the memory of its
gradients, as the recipe does. On a machine without a GPU the same runs on the CPU.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import add_out_flag, measured, report
from rl_data import Prompt, pack
from rl_rollout import EnginePool, GenerateContext, SamplingParams, single_turn
from rl_weights import PublishReport

_NUM_WARM_UP = 2
_MIB = 2**20
_GPU_FLAGS = ["--bf16"]
_GPU_ENGINE: dict[str, Any] = {
    "attention_backend": "triton",
    "enable_memory_saver": True,
    "disable_cuda_graph": True,
    "mem_fraction_static": 0.4,
    "max_total_tokens": 65536,
    "max_running_requests": 64,
}


def main() -> None:
    """Measures, checks and prints."""
    flags = _flags()
    from recipes.cluster import gpus_per_actor, ray_cluster

    with ray_cluster(num_actors=2):
        is_gpu = gpus_per_actor(num_actors=1) == 1
        trainer, engine = _start(flags, is_gpu)
        try:
            sweep = [_measure(trainer, engine, mib, flags.publishes) for mib in flags.bucket_mib]
            best = min(sweep, key=lambda one: one["seconds_median"])
            checks = _check(trainer, engine, int(best["bucket_mib"]) * _MIB, flags)
        finally:
            engine.close()
            trainer.close()
    details = {"best_bucket_mib": best["bucket_mib"], "checks": checks, "by_bucket_size": sweep}
    report([measured("sync_seconds", best["seconds_median"], "s")], details, flags.out)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sync_seconds", description="Seconds to hand a trainer's weights to an engine."
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--publishes", type=int, default=10, help="measured publishes of each bucket size")
    parser.add_argument("--bucket-mib", type=int, nargs="+", default=[256, 512, 1024, 2048], help="bucket sizes")
    parser.add_argument("--server-args", type=json.loads, default={}, help="more of SGLang's server arguments, as JSON")
    parser.add_argument("--megatron-args", type=str.split, default=[], help="more of Megatron's flags")
    parser.add_argument("--response-tokens", type=int, default=64, help="of each of 16 responses of the check")
    parser.add_argument("--offload-optimizer", action="store_true", help="as in training where not all fits the GPU")
    add_out_flag(parser)
    return parser.parse_args()


def _start(flags: argparse.Namespace, is_gpu: bool) -> tuple[Any, Any]:
    """Trainer and engine, ready, each in an actor of its own; on the same GPU if there is one."""
    from rl_rollout.ray import start_engine
    from rl_train import TrainerPart
    from rl_train.algorithms import AlgorithmConfig, make_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.rank import TrainerSpec
    from rl_train.ray import TrainerGroup

    model_config = json.loads((flags.model / "config.json").read_text())
    megatron_flags = [*(_GPU_FLAGS if is_gpu else []), "--lr", "1e-6", *flags.megatron_args]
    spec = TrainerSpec(
        arguments=parse_megatron_args(megatron_flags, model_config=model_config, world_size=1, train_iters=1),
        model_config=model_config,
        weights=flags.model,
        loss=make_loss(AlgorithmConfig(advantage_estimator="grpo")),
    )
    trainer = TrainerGroup.start(spec, world_size=1, num_gpus=0.5 if is_gpu else 0)
    trainer.wait_ready()  # before the engine, which takes its share of what is left
    trainer.release_memory(TrainerPart.GRADIENTS, *([TrainerPart.OPTIMIZER] if flags.offload_optimizer else []))
    server_args = {"load_format": "dummy", **(_GPU_ENGINE if is_gpu else {}), **flags.server_args}
    engine = start_engine(
        flags.model.resolve(), name="engine 0", server_args=server_args, num_gpus=0.5 if is_gpu else 0
    )
    engine.wait_ready()
    return trainer, engine


def _measure(trainer: Any, engine: Any, bucket_mib: int, num_publishes: int) -> dict[str, Any]:
    """Times of one bucket size: as the caller sees them, and by phase of publisher and engine."""
    seconds: list[float] = []
    reports: list[PublishReport] = []
    in_engine: list[Mapping[str, float]] = []
    used_mib: list[float] = []
    for number in range(_NUM_WARM_UP + num_publishes):
        started = time.perf_counter()
        made = trainer.publish(1000 * bucket_mib + number, [engine], bucket_bytes=bucket_mib * _MIB)
        seconds.append(time.perf_counter() - started)
        reports.append(made)
        in_engine.append(engine.update_seconds())
        used_mib.append(_used_mib())
    phases = [name for name in asdict(reports[0]) if name.endswith("_s")]
    kept = slice(_NUM_WARM_UP, None)
    return {
        "bucket_mib": bucket_mib,
        "num_buckets": reports[0].num_buckets,
        "num_bytes": reports[0].num_bytes,
        "num_tensors": reports[0].num_tensors,
        "buffers_on": reports[0].buffers_on,
        "seconds_median": round(statistics.median(seconds[kept]), 5),
        "seconds": [round(each, 5) for each in seconds],
        "gpu_memory_growth_mib": used_mib[-1] - used_mib[_NUM_WARM_UP - 1],
        "publisher": {name: _median([getattr(each, name) for each in reports[kept]]) for name in phases},
        "engine": {name: _median([each.get(name, 0.0) for each in in_engine[kept]]) for name in in_engine[-1]},
    }


def _used_mib() -> float:
    """Memory of the GPU that is in use, by any process; 0 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / _MIB


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 5)


def _check(trainer: Any, engine: Any, bucket_bytes: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Compares the weights, then publishes between the return of the weights' memory and that of the KV cache."""
    from rl_rollout import EnginePart

    started = time.perf_counter()
    asyncio.run(engine.release_memory())
    released = time.perf_counter()
    asyncio.run(engine.resume_memory(EnginePart.WEIGHTS))
    weights_back = time.perf_counter()
    trainer.publish(10**9, [engine], bucket_bytes=bucket_bytes)
    published = time.perf_counter()
    asyncio.run(engine.resume_memory(EnginePart.KV_CACHE))
    cache_back = time.perf_counter()
    verified = trainer.publish(10**9 + 1, [engine], bucket_bytes=bucket_bytes, verify=True)
    return {
        "num_tensors_verified": verified.num_tensors,
        "verify_s": round(verified.verify_s, 5),
        "release_s": round(released - started, 5),
        "resume_weights_s": round(weights_back - released, 5),
        "publish_without_kv_cache_s": round(published - weights_back, 5),
        "resume_kv_cache_s": round(cache_back - published, 5),
        "logprob_abs_diff": _logprob_abs_diff(trainer, engine, flags),
    }


def _logprob_abs_diff(trainer: Any, engine: Any, flags: argparse.Namespace) -> float:
    """Mean absolute difference between the engine's log-probabilities of what it drew and the trainer's."""
    sampling = SamplingParams(max_new_tokens=flags.response_tokens)
    context = GenerateContext(engines=EnginePool([engine]), sampling=sampling, timeout_s=600)
    vocab_size = json.loads((flags.model / "config.json").read_text())["vocab_size"]
    random = np.random.default_rng(0)
    prompts = [
        Prompt(row=row, epoch=0, tokens=random.integers(3, vocab_size // 2, 24, dtype=np.int32), text="")
        for row in range(4)
    ]

    async def draw() -> list[Any]:
        drawn = await asyncio.gather(*(single_turn(prompt, range(4), context) for prompt in prompts))
        return [sample for samples in drawn for sample in samples]

    samples = asyncio.run(draw())
    batch = pack(
        samples,
        advantages=[1.0] * len(samples),
        num_ranks=trainer.num_data_parallel_ranks,
        max_tokens=4096,
        pad_to_multiple=trainer.pad_to_multiple,
    )
    differences: list[Any] = []
    for rows, microbatches in zip(trainer.compute_logprobs(batch), batch.microbatches, strict=True):
        for logprobs, microbatch in zip(rows, microbatches, strict=True):
            differences.append(np.abs(logprobs - microbatch.rollout_logprobs)[microbatch.loss_weights > 0])
    return float(np.concatenate(differences).mean())


if __name__ == "__main__":
    main()
