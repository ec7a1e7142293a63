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
_LOOPBACK = "127.0.0.1"
# Ray gives every node one unit of a resource with its address in the name; a sliver of it ties a bundle to the node.
_SLIVER = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """What to tell Ray about a rank or an engine; those in a placement group have the bundle of their number."""

    num_gpus: float
    """GPUs of a process: 1, a share of one, or 0 where there are none."""
    ranks: "PlacementGroup | None" = None
    """Of the trainer's ranks; None: anywhere."""
    engines: "PlacementGroup | None" = None
    """Of the engines: the ranks' one, or anywhere."""
    host: str = _LOOPBACK
    """Address of the node of rank 0, at which the ranks meet."""


@contextmanager
def take_seats(trainer: TrainerPlacementConfig, *, num_engines: int, is_shared: bool) -> Generator[Seats]:
    """Seats for a run's processes, free again after the block. To be used inside `ray_cluster`.

    Args:
        trainer: nodes, and ranks of each.
        num_engines: engines beside them.
        is_shared: whether engine i sits on the GPU of rank i.

    Raises:
        UsageError: if the cluster has too few nodes or GPUs, or has not set them free in time.
    """
    num_ranks, num_nodes = trainer.world_size, trainer.actor_num_nodes
    deadline = time.monotonic() + _PLACEMENT_TIMEOUT_S
    while len(_live_nodes()) < num_nodes and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # those of a cluster that was just started come one by one
    num_gpus = gpus_per_actor(num_actors=num_ranks if is_shared else num_ranks + num_engines)
    if num_nodes == 1 and not is_shared and len(_live_nodes()) == 1:
        yield Seats(num_gpus=num_gpus)
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    hosts = _hosts(num_nodes, num_gpus=num_gpus * trainer.actor_num_gpus_per_node) if num_nodes > 1 else ()
    bundles: list[dict[str, float]] = []
    for rank in range(num_ranks):
        bundle: dict[str, float] = {"CPU": 2 if is_shared and rank < num_engines else 1}
        if num_gpus:
            bundle["GPU"] = 1
        if hosts:
            bundle[f"node:{hosts[rank // trainer.actor_num_gpus_per_node]}"] = _SLIVER
        bundles.append(bundle)
    # Ranks of one node meet at its loopback address, so none of them may sit elsewhere.
    group = placement_group(bundles, strategy="STRICT_PACK" if num_nodes == 1 else "PACK")
    try:
        if not group.wait(_PLACEMENT_TIMEOUT_S):
            places = f"{num_ranks} {'GPUs' if num_gpus else 'CPUs'} on {num_nodes} nodes"
            raise UsageError(f"{places} did not come free within {_PLACEMENT_TIMEOUT_S:g} s")
        yield Seats(
            num_gpus=num_gpus / 2 if is_shared else num_gpus,
            ranks=group,
            engines=group if is_shared else None,
            host=hosts[0] if hosts else _LOOPBACK,
        )
    finally:
        remove_placement_group(group)


def seats_of_engines(num_engines: int) -> Seats:
    """Seats for engines without a trainer: anywhere. To be used inside `ray_cluster`.

    Raises:
        UsageError: if the cluster has too few GPUs.
    """
    return Seats(num_gpus=gpus_per_actor(num_actors=num_engines))


def _hosts(num_nodes: int, *, num_gpus: int) -> Sequence[str]:
    """[num_nodes] addresses of nodes with so many GPUs, the head's first where it is one of them.

    Raises:
        UsageError: if there are fewer.
    """
    found = _live_nodes()
    fit = [node for node in found if node["Resources"].get("GPU", 0) >= num_gpus]
    if len(fit) < num_nodes:
        have = ", ".join(f"{node['NodeManagerAddress']} with {node['Resources'].get('GPU', 0):g}" for node in found)
        raise UsageError(
            f"--actor-num-nodes {num_nodes}: expected so many nodes with {num_gpus} GPUs each, the cluster has {have}"
        )
    fit.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]))
    return [node["NodeManagerAddress"] for node in fit[:num_nodes]]


def _live_nodes() -> list[Mapping[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
