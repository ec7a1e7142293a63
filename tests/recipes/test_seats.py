"""Which GPUs ranks and engines get, on a Ray that is told of GPUs which nobody has."""

import os

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from recipes.cluster import gpus_per_actor
from recipes.config import TrainerPlacementConfig
from recipes.errors import UsageError
from recipes.seats import EngineSeat, _hosts, check_room, seats_of_engines, take_seats

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
        assert seats.ranks is not None
        assert [*first.gpu_ids, *second.gpu_ids] == [gpu_of_rank(seats.ranks, rank) for rank in range(4)]
        assert {*first.gpu_ids, *second.gpu_ids} == {"0", "1", "2", "3"}
        assert len(first.gpu_ids) == 2


def gpu_of_rank(group, rank: int) -> str:
    """CUDA's name of the GPU that Ray shows to what sits where the rank does."""
    task = ray.remote(num_cpus=0, num_gpus=0.5)(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
    return ray.get(task.options(scheduling_strategy=place).remote(), timeout=60)


def test_engines_beside_the_trainer_get_whole_gpus_from_ray(four_gpus):
    trainer = TrainerPlacementConfig(actor_num_gpus_per_node=2)
    with take_seats(trainer, num_engines=1, gpus_per_engine=2, is_shared=False) as seats:
        assert (seats.num_gpus, seats.engines) == (1, (EngineSeat(num_gpus=2),))
    assert seats_of_engines(2, num_gpus=2) == (EngineSeat(num_gpus=2),) * 2


def test_more_gpus_or_nodes_than_the_cluster_has_are_refused_with_what_it_has(four_gpus):
    assert gpus_per_actor(num_actors=4) == 1
    with pytest.raises(UsageError, match="5 GPUs are needed, the cluster has 4: --actor-num-gpus-per-node says"):
        gpus_per_actor(num_actors=5)
    (node,) = nodes = ray.nodes()
    address = node["NodeManagerAddress"]
    for num_nodes, num_gpus, said in (
        (1, 5, f"nodes with 5 GPUs each, the cluster has {address} with 4"),
        (2, 2, f"nodes with 2 GPUs each, the cluster has {address} with 4"),
        (2, 0, f"nodes, the cluster has 1: {address}"),
    ):
        with pytest.raises(UsageError, match=f"--actor-num-nodes {num_nodes}: expected so many {said}$"):
            _hosts(nodes, num_nodes, num_gpus=num_gpus, of_each=1)


def test_gpus_that_others_use_are_waited_for_until_a_deadline(four_gpus):
    class Other:
        def holds(self) -> bool:
            return True

    other = ray.remote(num_cpus=0, num_gpus=1)(Other).remote()
    assert ray.get(other.holds.remote(), timeout=60)
    trainer = TrainerPlacementConfig(actor_num_gpus_per_node=4)
    with (
        pytest.raises(UsageError, match="4 GPUs on one node did not come free within 1 s"),
        take_seats(trainer, num_engines=2, gpus_per_engine=2, is_shared=True, timeout_s=1),
    ):
        pass
    ray.kill(other)


@pytest.mark.parametrize(
    ("nodes", "of_each", "ranks", "room"),
    [
        ((2, 2), 2, 2, 1),
        ((3, 3), 2, 2, 1),  # 4 GPUs are left, but no node has two of the second engine's
        ((3, 3), 2, 1, 2),
        ((5, 7), 5, 1, 2),  # with the trainer on the larger node
        ((3, 3), 2, 0, 2),
    ],
)
def test_an_engine_has_to_find_its_gpus_on_one_node(nodes, of_each, ranks, room):
    found = [(f"10.0.0.{index}", num) for index, num in enumerate(nodes)]
    trainer = TrainerPlacementConfig(actor_num_gpus_per_node=ranks) if ranks else None
    check_room(found, room, of_each, trainer)
    with pytest.raises(UsageError, match=f"--rollout-num-gpus-per-engine {of_each}: .* has 10.0.0.0 with {nodes[0]}, "):
        check_room(found, room + 1, of_each, trainer)


@pytest.mark.parametrize(
    ("gpus", "num_nodes", "ranks", "of_each", "expected"),
    [
        ((8, 4, 4), 2, 4, 8, [1, 2]),  # on the head, whose address is the first, there would be no room for the engine
        ((8, 4, 4), 2, 4, 4, [0, 1]),  # each loses one
        ((5, 7), 1, 1, 5, [1]),
        ((4, 4), 1, 2, 2, []),  # whichever of the two is free
        ((8, 4, 4), 2, 4, 0, [0, 1]),  # engines share the trainer's GPUs
        ((0, 0), 2, 0, 1, [0, 1]),
    ],
)
def test_the_trainer_sits_where_it_leaves_room_for_the_most_engines(gpus, num_nodes, ranks, of_each, expected):
    nodes = [
        {"NodeManagerAddress": f"10.0.0.{index}", "Resources": {"GPU": float(num)}} for index, num in enumerate(gpus)
    ]
    nodes[0]["Resources"]["node:__internal_head__"] = 1.0
    assert [*_hosts(nodes, num_nodes, num_gpus=ranks, of_each=of_each)] == [f"10.0.0.{index}" for index in expected]
