"""The training part of a GRPO step: from graded groups to optimizer steps."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recipes.grpo.config import GRPOJob
from rl_data import SampleGroup, TrainBatch, pack, with_logprobs
from rl_train.algorithms import compute_advantages
from rl_train.trainer import StepResult

if TYPE_CHECKING:
    from rl_train.ray import TrainerGroup


def train_on(groups: Sequence[SampleGroup], trainer: "TrainerGroup", job: GRPOJob) -> list[StepResult]:
    """The rollout's optimizer steps; `job.num_steps_per_rollout` of them."""
    ranks, multiple = trainer.num_data_parallel_ranks, trainer.pad_to_multiple
    batches = make_batches(groups, job, num_ranks=ranks, pad_to_multiple=multiple)
    if job.algorithm.needs_reference:
        batches = [with_logprobs(batch, ref=trainer.compute_reference_logprobs(batch)) for batch in batches]
    if job.algorithm.needs_old_logprobs:
        # The first step's own forward pass gives its old log-probabilities.
        batches[1:] = [with_logprobs(batch, old=trainer.compute_logprobs(batch)) for batch in batches[1:]]
    return [trainer.train_step(batch) for batch in batches]


def make_batches(
    groups: Sequence[SampleGroup], job: GRPOJob, *, num_ranks: int, pad_to_multiple: int
) -> list[TrainBatch]:
    """What the rollout's optimizer steps train on, one batch each, packed for a trainer with these properties."""
    advantages = [one for group in compute_advantages(groups, job.algorithm) for one in group]
    samples = [sample for group in groups for sample in group.samples]
    # Failed samples are gone, so the steps may differ by one sample.
    num_steps = job.num_steps_per_rollout
    borders = [len(samples) * step // num_steps for step in range(num_steps + 1)]
    return [
        pack(
            samples[first:stop],
            advantages=advantages[first:stop],
            num_ranks=num_ranks,
            max_tokens=job.batch.max_tokens_per_gpu,
            loss_reduction=job.algorithm.loss_reduction,
            pad_to_multiple=pad_to_multiple,
            attention_length=job.batch.attention_length(job.model_config),
        )
        for first, stop in itertools.pairwise(borders)
    ]
