"""Which GPUs ranks and engines get, on a Ray that is told of GPUs which nobody has."""

import pytest

from recipes.config import TrainerPlacementConfig
from recipes.seats import EngineSeat, seats_of_engines, take_seats

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def four_gpus():
    ray.init("local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def test_engines_of_two_gpus_sit_on_those_of_their_ranks(four_gpus):
    trainer = TrainerPlacementConfig(actor_num_gpus_per_node=4)
    with take_seats(trainer, num_engines=2, gpus_per_engine=2, is_shared=True) as seats:
        assert seats.num_gpus == 0.5
        first, second = seats.engines
        assert (first.bundle, second.bundle) == (0, 2)
        assert first.num_gpus == second.num_gpus == 0.5
        assert {*first.gpu_ids, *second.gpu_ids} == {"0", "1", "2", "3"}
        assert len(first.gpu_ids) == len(second.gpu_ids) == 2


def test_engines_beside_the_trainer_get_whole_gpus_from_ray(four_gpus):
    trainer = TrainerPlacementConfig(actor_num_gpus_per_node=2)
    with take_seats(trainer, num_engines=1, gpus_per_engine=2, is_shared=False) as seats:
        assert (seats.num_gpus, seats.engines) == (1, (EngineSeat(num_gpus=2),))
    assert seats_of_engines(2, num_gpus=2) == (EngineSeat(num_gpus=2),) * 2
