"""Groups that wait for a later step: surplus ones, and ones with responses that were cut off."""

from collections import deque
from collections.abc import Iterable, Mapping

from rl_data.errors import DataError, SchemaVersionError
from rl_data.json import JsonValue
from rl_data.sample import FinishReason, PolicyVersion, SampleGroup
from rl_data.wire import group_from_json, group_to_json

_STATE_VERSION = 1


class SampleBuffer:
    """A queue of groups, first in first out, that gives out none which is too far behind the policy.

    A group is as old as the oldest policy version among the spans of its samples. One without spans has no age.

    Args:
        max_staleness: publishes by which a group may be behind when it is taken; None: any number.
    """

    def __init__(self, *, max_staleness: int | None = None) -> None:
        if max_staleness is not None and max_staleness < 0:
            raise DataError(f"sample buffer: expected max_staleness of at least 0, got {max_staleness}")
        self._max_staleness = max_staleness
        self._groups: deque[SampleGroup] = deque()
        self._num_expired = 0

    def __len__(self) -> int:
        """Number of groups, those that would expire included."""
        return len(self._groups)

    @property
    def num_expired(self) -> int:
        """Groups dropped so far because they were too old."""
        return self._num_expired

    def put(self, groups: Iterable[SampleGroup]) -> None:
        """Adds groups at the end."""
        self._groups.extend(groups)

    def put_back(self, groups: Iterable[SampleGroup]) -> None:
        """Adds groups at the front, in their order, as where they were taken and not used."""
        self._groups.extendleft(reversed(list(groups)))

    def take(self, num_groups: int, *, policy_version: PolicyVersion) -> list[SampleGroup]:
        """At most `num_groups` from the front that are young enough for `policy_version`; older ones are dropped."""
        taken: list[SampleGroup] = []
        while self._groups and len(taken) < num_groups:
            group = self._groups.popleft()
            if self._is_stale(group, policy_version):
                self._num_expired += 1
            else:
                taken.append(group)
        return taken

    def state_dict(self) -> dict[str, JsonValue]:
        """The groups and the count, as JSON values; numbers are kept exactly."""
        return {
            "state_version": _STATE_VERSION,
            "num_expired": self._num_expired,
            "groups": [group_to_json(group) for group in self._groups],
        }

    def load_state_dict(self, state: Mapping[str, JsonValue]) -> None:
        """Replaces the content by that of `state`.

        Raises:
            SchemaVersionError: if another version wrote it.
            DataError: if it is damaged.
        """
        if state.get("state_version") != _STATE_VERSION:
            found = state.get("state_version")
            raise SchemaVersionError(f"sample buffer: expected state_version {_STATE_VERSION}, found {found!r}")
        groups, num_expired = state.get("groups"), state.get("num_expired")
        if not isinstance(groups, list) or not isinstance(num_expired, int):
            raise DataError(f"sample buffer: expected groups and num_expired, found {sorted(state)}")
        self._groups = deque(
            group_from_json(group, where=f"sample buffer, group {number}") for number, group in enumerate(groups)
        )
        self._num_expired = num_expired

    def _is_stale(self, group: SampleGroup, policy_version: PolicyVersion) -> bool:
        versions = [span.policy_version for sample in group.samples for span in sample.spans]
        if self._max_staleness is None or not versions:
            return False
        return policy_version - min(versions) > self._max_staleness


def is_unfinished(group: SampleGroup) -> bool:
    """Whether a sample of the group was cut off and may be continued."""
    return any(sample.finish_reason is FinishReason.ABORT for sample in group.samples)
