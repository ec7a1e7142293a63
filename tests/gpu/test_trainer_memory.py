"""A trainer on a GPU gives its memory up, takes it back and goes on as if nothing had been."""

import numpy as np
import pytest
import torch

from rl_train.testing import sample_batch
from rl_train.trainer import TrainerPart

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# bf16 parameter, float32 gradient, float32 master weight and two moments.
_BYTES_PER_PARAMETER = 2 + 4 + 4 + 8


def free_bytes() -> int:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def test_the_whole_state_leaves_the_gpu_and_comes_back(trainer) -> None:
    batch = sample_batch(512, num_ranks=1)
    trainer.train_step(batch)
    [[before, *_]] = trainer.compute_logprobs(batch)
    num_parameters = sum(parameter.numel() for parameter in trainer._model.parameters())
    there = free_bytes()
    trainer.release_memory(TrainerPart.GRADIENTS, TrainerPart.OPTIMIZER)
    [[without_optimizer, *_]] = trainer.compute_logprobs(batch)
    assert np.array_equal(without_optimizer, before)
    trainer.release_memory(TrainerPart.PARAMETERS)
    # Some storages share the allocator's segments with tensors that stay.
    assert free_bytes() - there > 0.9 * num_parameters * _BYTES_PER_PARAMETER
    use = trainer.memory_use()
    assert use.parked_bytes >= num_parameters * (_BYTES_PER_PARAMETER - 4)
    assert use.device_bytes is not None
    trainer.resume_memory()
    assert abs(free_bytes() - there) < 64 * 2**20
    [[after, *_]] = trainer.compute_logprobs(batch)
    assert np.array_equal(after, before)
    assert np.isfinite(trainer.train_step(batch).loss)
    # The buffers in host memory are there already, and are used again.
    trainer.release_memory(*TrainerPart)
    assert trainer.memory_use().parked_bytes == use.parked_bytes
    trainer.resume_memory()
