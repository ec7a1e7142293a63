"""Which GPU each process of a run has: one of its own, or a share of one that a trainer rank and an engine share."""

# pyright: standard
# Ray is not typed throughout.

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recipes.cluster import gpus_per_actor
from recipes.errors import UsageError

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_PLACEMENT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seats:
    """What to tell Ray about a rank or an engine; rank i and engine i of a placement group have its bundle i."""

    num_gpus: float
    """GPUs of a process: 1, a share of one, or 0 where there are none."""
    group: "PlacementGroup | None" = None
    """None: anywhere."""


@contextmanager
def take_seats(*, num_ranks: int, num_engines: int, is_shared: bool) -> Generator[Seats]:
    """Seats for a run's processes, free again after the block. To be used inside `ray_cluster`.

    Raises:
        UsageError: if the cluster has too few GPUs, or has not set them free in time.
    """
    if not is_shared:
        yield Seats(num_gpus=gpus_per_actor(num_actors=num_ranks + num_engines))
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    num_gpus = gpus_per_actor(num_actors=num_ranks)
    bundles: list[dict[str, float]] = [{"CPU": 2 if rank < num_engines else 1} for rank in range(num_ranks)]
    if num_gpus:
        bundles = [{**bundle, "GPU": 1} for bundle in bundles]
    group = placement_group(bundles, strategy="PACK")
    try:
        if not group.wait(_PLACEMENT_TIMEOUT_S):
            raise UsageError(f"{num_ranks} GPUs did not come free within {_PLACEMENT_TIMEOUT_S:g} s")
        yield Seats(num_gpus=num_gpus / 2, group=group)
    finally:
        remove_placement_group(group)
