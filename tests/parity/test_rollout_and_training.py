"""The engine's and the trainer's log-probabilities are those of one policy, before and after its weights change."""

import numpy as np
import pytest

from rl_data import SampleGroup, TrainBatch, pack
from tests.drawn_groups import draw_groups

pytestmark = pytest.mark.slow

TEMPERATURE = 0.7
# Both compute in float32 with other orders of summation: 1e-6 is usual, and a wrong norm, position or temperature
# shows above 1e-3.
TOLERANCE = 1e-5


def draw(engine) -> list[SampleGroup]:
    return draw_groups(engine, num_prompts=4, max_new_tokens=24, temperature=TEMPERATURE)


def batch_of(groups: list[SampleGroup], trainer) -> TrainBatch:
    samples = [sample for group in groups for sample in group.samples]
    return pack(
        samples,
        advantages=[(-1.0) ** number for number in range(len(samples))],
        num_ranks=trainer.num_data_parallel_ranks,
        max_tokens=256,
        pad_to_multiple=trainer.pad_to_multiple,
    )


def test_log_probabilities_agree_before_and_after_training_and_publishing(stack) -> None:
    _, trainer, engine = stack
    differences, versions = [], []
    for version in (1, 2, 3):
        trainer.publish(version, [engine])
        groups = draw(engine)
        versions += [span.policy_version for group in groups for sample in group.samples for span in sample.spans]
        batch = batch_of(groups, trainer)
        assert len(batch.microbatches[0]) > 1
        for rows, microbatches in zip(trainer.compute_logprobs(batch), batch.microbatches, strict=True):
            for logprobs, microbatch in zip(rows, microbatches, strict=True):
                trained = microbatch.loss_weights > 0
                differences.append(np.abs(logprobs - microbatch.rollout_logprobs)[trained].mean())
        result = trainer.train_step(batch)
        assert result.grad_norm > 0
        assert result.metrics["logprob_abs_diff"] < TOLERANCE
    assert max(differences) < TOLERANCE
    assert sorted(set(versions)) == [1, 2, 3]


def test_an_engine_that_missed_the_last_step_does_not_agree(stack) -> None:
    _, trainer, engine = stack
    trainer.publish(10, [engine])
    trainer.train_step(batch_of(draw(engine), trainer))
    result = trainer.train_step(batch_of(draw(engine), trainer))
    assert result.metrics["logprob_abs_diff"] > 100 * TOLERANCE
