"""Where each process of a run sits: on which node, and on which GPU, its own or one that a rank and an engine share."""

# pyright: standard
# Ray is not typed throughout.

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.cluster import gpus_per_actor
from recipes.config.cluster import TrainerPlacementConfig
from recipes.errors import UsageError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_PLACEMENT_TIMEOUT_S = 60.0
_POLL_S = 0.5
LOOPBACK = "127.0.0.1"
# Ray gives every node one unit of a resource with its address in the name; a sliver of it ties a bundle to the node.
_SLIVER = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSeat:
    """What to tell Ray about an engine."""

    num_gpus: float
    """As many as the engine has, a share of one where others sit there too, or 0 where there are none."""
    group: "PlacementGroup | None" = None
    """None: anywhere."""
    bundle: int = -1
    gpu_ids: tuple[str, ...] = ()
    """The GPUs of the engine, where they are in several bundles, of which Ray shows it the first alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """What to tell Ray about ranks and engines; in a placement group a rank has the bundle of its number."""

    num_gpus: float
    """Of a rank: 1, a share of one, or 0 where there are none."""
    ranks: "PlacementGroup | None" = None
    """Of the trainer's ranks; None: anywhere."""
    engines: tuple[EngineSeat, ...] = ()
    host: str = LOOPBACK
    """Address of the node of rank 0, at which the ranks meet."""


@contextmanager
def take_seats(
    trainer: TrainerPlacementConfig,
    *,
    num_engines: int,
    is_shared: bool,
    gpus_per_engine: int = 1,
    timeout_s: float = _PLACEMENT_TIMEOUT_S,
) -> Generator[Seats]:
    """Seats for a run's processes, free again after the block. To be used inside `ray_cluster`.

    Args:
        trainer: nodes, and ranks of each.
        num_engines: engines beside them.
        gpus_per_engine: all of one node.
        is_shared: whether the engines, one after the other, sit on the GPUs of the ranks.
        timeout_s: for nodes to join, and then for places to come free.

    Raises:
        UsageError: if the cluster has too few nodes or GPUs, or has not set them free in time.
    """
    num_ranks, num_nodes = trainer.world_size, trainer.actor_num_nodes
    deadline = time.monotonic() + timeout_s
    while len(_live_nodes()) < num_nodes and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # those of a cluster that was just started come one by one
    num_gpus = gpus_per_actor(num_actors=num_ranks if is_shared else num_ranks + num_engines * gpus_per_engine)
    nodes = _live_nodes()
    if num_gpus and not is_shared:
        check_room(_gpus_of(nodes), num_engines, gpus_per_engine, trainer)
    anywhere = (EngineSeat(num_gpus=num_gpus * gpus_per_engine),) * num_engines
    if num_nodes == 1 and not is_shared and len(nodes) == 1:
        yield Seats(num_gpus=num_gpus, engines=anywhere)
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    gpus_of_node = int(num_gpus) * trainer.actor_num_gpus_per_node
    hosts = _hosts(nodes, num_nodes, num_gpus=gpus_of_node, of_each=0 if is_shared else gpus_per_engine)
    first_of_engine = range(0, num_engines * gpus_per_engine, gpus_per_engine) if is_shared else ()
    bundles: list[dict[str, float]] = []
    for rank in range(num_ranks):
        bundle: dict[str, float] = {"CPU": 2 if rank in first_of_engine else 1}
        if num_gpus:
            bundle["GPU"] = 1
        if hosts:
            bundle[f"node:{hosts[rank // trainer.actor_num_gpus_per_node]}"] = _SLIVER
        bundles.append(bundle)
    # Ranks of one node meet at its loopback address, so none of them may sit elsewhere.
    group = placement_group(bundles, strategy="STRICT_PACK" if num_nodes == 1 else "PACK")
    try:
        if not group.wait(timeout_s):
            where = "one node" if num_nodes == 1 else f"{num_nodes} nodes"
            places = f"{num_ranks} {'GPUs' if num_gpus else 'CPUs'} on {where}"
            raise UsageError(f"{places} did not come free within {timeout_s:g} s: does something else use the cluster?")
        yield Seats(
            num_gpus=num_gpus / 2 if is_shared else num_gpus,
            ranks=group,
            engines=_shared(group, first_of_engine, gpus_per_engine, num_gpus / 2) if is_shared else anywhere,
            host=hosts[0] if num_nodes > 1 else LOOPBACK,
        )
    finally:
        remove_placement_group(group)


def seats_of_engines(num_engines: int, *, num_gpus: int) -> tuple[EngineSeat, ...]:
    """Seats for engines of so many GPUs without a trainer: anywhere. To be used inside `ray_cluster`.

    Raises:
        UsageError: if the cluster has too few GPUs.
    """
    has_gpus = gpus_per_actor(num_actors=num_engines * num_gpus)
    if has_gpus:
        check_room(_gpus_of(_live_nodes()), num_engines, num_gpus)
    return (EngineSeat(num_gpus=has_gpus * num_gpus),) * num_engines


def _shared(
    group: "PlacementGroup", first_of_engine: Sequence[int], gpus_per_engine: int, share: float
) -> tuple[EngineSeat, ...]:
    """The engines' seats beside the ranks: each in the bundle of its first rank."""
    ids = _gpu_ids(group, share) if share and gpus_per_engine > 1 else ()
    return tuple(
        EngineSeat(num_gpus=share, group=group, bundle=first, gpu_ids=tuple(ids[first : first + gpus_per_engine]))
        for first in first_of_engine
    )


def _gpu_ids(group: "PlacementGroup", share: float) -> Sequence[str]:
    """[bundles] CUDA's name of each bundle's GPU, told by a task that sits there for a moment."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def look() -> str:
        (gpu_id,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        return gpu_id

    task = ray.remote(num_cpus=0, num_gpus=share)(look)
    places = (PlacementGroupSchedulingStrategy(group, index) for index in range(group.bundle_count))
    tasks = [task.options(scheduling_strategy=place).remote() for place in places]
    try:
        return ray.get(tasks, timeout=_PLACEMENT_TIMEOUT_S)
    except GetTimeoutError as error:
        raise UsageError(
            f"the {group.bundle_count} GPUs of trainer and engines were set apart, but no process started on one of "
            f"them within {_PLACEMENT_TIMEOUT_S:g} s"
        ) from error


def _hosts(found: Sequence[Mapping[str, Any]], num_nodes: int, *, num_gpus: int, of_each: int) -> Sequence[str]:
    """[num_nodes] addresses of nodes for the trainer: those that lose the fewest engines, of equal ones the head first.

    None where one is wanted and all are equal: Ray then takes one that is free.

    Args:
        found: nodes as Ray describes them.
        num_nodes: how many are wanted.
        num_gpus: of the trainer on each.
        of_each: GPUs of an engine; 0 where none needs GPUs of its own.

    Raises:
        UsageError: if there are fewer.
    """
    fit = [node for node in found if node["Resources"].get("GPU", 0) >= num_gpus]
    if len(fit) < num_nodes:
        addresses = [node["NodeManagerAddress"] for node in found]
        each, have = "", f"{len(found)}: {', '.join(addresses)}"
        if num_gpus:
            each = f" with {num_gpus} GPUs each"
            have = ", ".join(f"{address} with {num}" for address, num in _gpus_of(found))
        raise UsageError(f"--actor-num-nodes {num_nodes}: expected so many nodes{each}, the cluster has {have}")
    ordered = sorted(
        (_num_lost(num, num_gpus, of_each), "node:__internal_head__" not in node["Resources"], address)
        for node, (address, num) in zip(fit, _gpus_of(fit), strict=True)
    )
    if num_nodes == 1 and ordered[0][0] == ordered[-1][0]:
        return ()
    return [address for _, _, address in ordered[:num_nodes]]


def check_room(
    found: Sequence[tuple[str, int]], num_engines: int, of_each: int, trainer: TrainerPlacementConfig | None = None
) -> None:
    """Does nothing if the nodes can hold the engines, each on one node, beside the trainer if there is one.

    The trainer is taken to be on those nodes that lose the fewest engines by it.

    Args:
        found: address and GPUs of each node.
        num_engines: how many engines there are to be.
        of_each: GPUs of an engine.
        trainer: nodes, and ranks of each.

    Raises:
        UsageError: with the GPUs of each node.
    """
    room = sum(num // of_each for _, num in found)
    if trainer is not None:
        ranks = trainer.actor_num_gpus_per_node
        lost = sorted(_num_lost(num, ranks, of_each) for _, num in found if num >= ranks)
        room -= sum(lost[: trainer.actor_num_nodes])
    if room < num_engines:
        have = ", ".join(f"{address} with {num}" for address, num in found)
        beside = f", beside the trainer's {trainer.world_size}" if trainer else ""
        raise UsageError(
            f"--rollout-num-gpus-per-engine {of_each}: each of {num_engines} engines needs so many GPUs of one node"
            f"{beside}; the cluster has {have}"
        )


def _num_lost(num_gpus: int, of_trainer: int, of_each: int) -> int:
    """Engines of `of_each` GPUs for which a node has no room any more once the trainer is on it."""
    return num_gpus // of_each - (num_gpus - of_trainer) // of_each if of_each else 0


def _gpus_of(nodes: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    return [(node["NodeManagerAddress"], int(node["Resources"].get("GPU", 0))) for node in nodes]


def _live_nodes() -> list[Mapping[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
