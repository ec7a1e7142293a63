"""What a GRPO step is made of, bare: SGLang generating the same requests, a trainer taking the same batches.

`bench.grpo_step` starts it twice, once for each, in a process that has the GPU to itself:

    python -m bench.grpo_floor PART --result FILE --samples FILE --steps STEP ... -- RECIPE_FLAGS
"""

# pyright: standard
# SGLang and Megatron are annotated in part only.

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from recipes.grpo.config import GRPOJob, read_job
from recipes.grpo.step import make_batches
from rl_data import FinishReason, Sample, SampleGroup, TrainBatch, with_logprobs
from rl_data.wire import decode_sample
from rl_rollout.generate import sample_seed

if TYPE_CHECKING:
    from rl_train.megatron.trainer import MegatronTrainer

_WARM_UP_TOKENS = 32
_WARM_UP_GROUPS = 2

type Seconds = dict[int, float]
"""Step -> what it took."""


def main() -> None:
    """Measures one part and writes step -> seconds as JSON."""
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description="One part of a GRPO step, bare.")
    parser.add_argument("part", choices=("generation", "training"))
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="samples.jsonl of the run")
    parser.add_argument("--steps", type=int, nargs="+", required=True, help="steps of the run to measure")
    flags = parser.parse_args(sys.argv[1:split])
    job = read_job(sys.argv[split + 1 :])
    groups = {step: read_groups(flags.samples, step) for step in flags.steps}
    seconds = generate(job, groups) if flags.part == "generation" else train(job, groups)
    flags.result.write_text(json.dumps(seconds))


def read_groups(file: Path, step: int) -> list[SampleGroup]:
    """The groups that a step was trained on.

    Raises:
        ValueError: if there are none.
    """
    samples: list[Sample] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            # A run that was interrupted may have left the start of a line.
            if line.endswith(b"\n") and msgspec.json.decode(line)["metadata"]["step"] == step:
                samples.append(decode_sample(line, where=f"{file}:{number}"))
    trained = [sample for sample in samples if sample.finish_reason is not FinishReason.ERROR]
    if not trained:
        raise ValueError(f"{file}: expected samples of step {step}, found none")
    return [
        SampleGroup(group_id=group_id, samples=tuple(members))
        for group_id, members in itertools.groupby(trained, key=lambda sample: sample.group_id)
    ]


def generate(job: GRPOJob, groups: Mapping[int, Sequence[SampleGroup]]) -> Seconds:
    """Seconds in which SGLang answers each step's requests, every response as long as it was in the run."""
    import sglang
    import torch

    from rl_rollout.sglang.cpu_platform import cpu_server_args

    server_args = {"log_level": "error", **job.sglang.server_kwargs(), "skip_tokenizer_init": True}
    if not torch.cuda.is_available():
        server_args = cpu_server_args(server_args)
    engine = sglang.Engine(model_path=str(job.run.hf_checkpoint), **server_args)
    try:
        seconds: Seconds = {}
        _answer(engine, job, next(iter(groups.values())), max_new_tokens=_WARM_UP_TOKENS)
        for step, of_step in groups.items():
            engine.flush_cache()
            started = time.perf_counter()
            _answer(engine, job, of_step)
            seconds[step] = time.perf_counter() - started
    finally:
        engine.shutdown()
    return seconds


def _answer(engine: Any, job: GRPOJob, groups: Sequence[SampleGroup], *, max_new_tokens: int | None = None) -> None:
    samples = [sample for group in groups for sample in group.samples]
    lengths = [len(sample.tokens) - sample.prompt_length for sample in samples]
    wanted = [min(length, max_new_tokens or length) for length in lengths]
    answers = engine.generate(
        input_ids=[sample.tokens[: sample.prompt_length].tolist() for sample in samples],
        sampling_params=[
            {
                "max_new_tokens": length,
                "ignore_eos": True,
                "temperature": job.rollout.rollout_temperature,
                "top_p": job.rollout.rollout_top_p,
                "top_k": job.rollout.rollout_top_k,
                "sampling_seed": sample_seed(job.rollout.rollout_seed, sample.group_id, sample.index),
            }
            for sample, length in zip(samples, wanted, strict=True)
        ],
        return_logprob=True,
    )
    given = [answer["meta_info"]["completion_tokens"] for answer in answers]
    assert given == wanted, f"expected responses of {wanted} tokens, got {given}"


def train(job: GRPOJob, groups: Mapping[int, Sequence[SampleGroup]]) -> Seconds:
    """Seconds in which a trainer, alone in its process, takes each step's batches."""
    import torch
    import torch.distributed as dist

    from rl_train.algorithms import make_loss
    from rl_train.megatron.cpu import enable_cpu_support

    assert job.trainer_placement.world_size == 1, "the bare trainer has one rank"
    is_cpu = enable_cpu_support()
    from rl_train.megatron.trainer import MegatronTrainer

    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo" if is_cpu else "nccl", store=store, rank=0, world_size=1)
        weights = job.run.first_weights
        trainer = MegatronTrainer(
            arguments=job.megatron,
            model_config=job.model_config,
            weights=weights,
            loss=make_loss(job.algorithm),
            temperature=job.rollout.rollout_temperature,
            config=job.megatron_trainer,
        )
        if job.algorithm.needs_reference:
            trainer.load_reference(job.run.ref_load or weights)
        seconds: Seconds = {}
        warm_up = list(itertools.islice(next(iter(groups.values())), _WARM_UP_GROUPS))
        for step, of_step in {0: warm_up, **groups}.items():
            batches = make_batches(of_step, job, num_ranks=1, pad_to_multiple=trainer.pad_to_multiple)
            started = time.perf_counter()
            _take(trainer, job, batches)
            if not is_cpu:
                torch.cuda.synchronize()
            if step:
                seconds[step] = time.perf_counter() - started
        trainer.close()
    return seconds


def _take(trainer: "MegatronTrainer", job: GRPOJob, batches: list[TrainBatch]) -> None:
    if job.algorithm.needs_reference:
        batches = [with_logprobs(batch, ref=trainer.compute_reference_logprobs(batch)) for batch in batches]
    if job.algorithm.needs_old_logprobs:
        batches[1:] = [with_logprobs(batch, old=trainer.compute_logprobs(batch)) for batch in batches[1:]]
    for batch in batches:
        trainer.train_step(batch)


if __name__ == "__main__":
    main()
