"""On a GPU in bf16 the engine's and the trainer's log-probabilities are those of one policy, also after training."""

import pytest

from rl_data import SampleGroup, TrainBatch, pack
from rl_weights import Publisher
from tests.drawn_groups import draw_groups

from .conftest import TEMPERATURE

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# The bar for bf16. A forgotten temperature shows at 0.1 and more with these weights.
TOLERANCE = 0.01


def draw(engine) -> list[SampleGroup]:
    return draw_groups(engine, num_prompts=8, max_new_tokens=64, temperature=TEMPERATURE)


def batch_of(groups: list[SampleGroup], trainer) -> TrainBatch:
    samples = [sample for group in groups for sample in group.samples]
    advantages = [(-1.0) ** number for number in range(len(samples))]
    return pack(
        samples,
        advantages=advantages,
        num_ranks=1,
        max_tokens=1024,
        pad_to_multiple=trainer.pad_to_multiple,
    )


def test_log_probabilities_agree_before_and_after_training_and_publishing(engine, trainer) -> None:
    publisher = Publisher(trainer.tensor_source(), [engine])
    means = []
    for version in (101, 102, 103):
        publisher.publish(version)
        batch = batch_of(draw(engine), trainer)
        result = trainer.train_step(batch)
        assert result.grad_norm > 0
        means.append(result.metrics["logprob_abs_diff"])
    assert max(means) < TOLERANCE, means


def test_an_engine_that_missed_a_step_does_not_agree(engine, trainer) -> None:
    trainer.train_step(batch_of(draw(engine), trainer))
    result = trainer.train_step(batch_of(draw(engine), trainer))
    assert result.metrics["logprob_abs_diff"] > 2 * TOLERANCE
