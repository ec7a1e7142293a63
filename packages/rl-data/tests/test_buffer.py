import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_data import DataError, FinishReason, SampleBuffer, SampleGroup, SchemaVersionError
from rl_data.buffer import is_unfinished
from rl_data.testing import make_group, make_sample
from rl_data.wire import encode_sample


def ids(groups: list[SampleGroup]) -> list[str]:
    return [group.group_id for group in groups]


def test_groups_come_out_in_the_order_in_which_they_went_in():
    buffer = SampleBuffer()
    buffer.put([make_group("a"), make_group("b")])
    buffer.put([make_group("c")])
    taken = buffer.take(2, policy_version=1)
    assert ids(taken) == ["a", "b"]
    buffer.put_back(taken)
    assert ids(buffer.take(9, policy_version=1)) == ["a", "b", "c"]
    assert buffer.take(1, policy_version=1) == []


def test_groups_that_are_too_old_are_dropped_and_counted():
    buffer = SampleBuffer(max_staleness=2)
    buffer.put([make_group("old", policy_version=1), make_group("new", policy_version=2)])
    mixed = (make_sample(group_id="mixed", policy_version=4), make_sample(group_id="mixed", index=1, policy_version=1))
    buffer.put([SampleGroup(group_id="mixed", samples=mixed)])
    assert ids(buffer.take(3, policy_version=4)) == ["new"]
    assert buffer.num_expired == 2


def test_groups_without_spans_do_not_age():
    buffer = SampleBuffer(max_staleness=0)
    buffer.put([SampleGroup(group_id="0-0", samples=(make_sample(policy_version=None),))])
    assert len(buffer.take(1, policy_version=100)) == 1


def test_a_state_holds_everything_exactly():
    buffer = SampleBuffer(max_staleness=1)
    unfinished = make_sample(group_id="b", finish_reason=FinishReason.ABORT, metadata={"turn": [1, None, 0.1]})
    buffer.put([make_group("old", policy_version=1), make_group("a", policy_version=5)])
    buffer.put([SampleGroup(group_id="b", samples=(unfinished,))])
    buffer.take(1, policy_version=5)
    restored = SampleBuffer()
    restored.load_state_dict(msgspec.json.decode(msgspec.json.encode(buffer.state_dict())))
    assert (len(restored), restored.num_expired) == (1, 1)
    (group,) = restored.take(1, policy_version=5)
    assert is_unfinished(group)
    assert encode_sample(group.samples[0]) == encode_sample(unfinished)


def test_surplus_and_unfinished_groups_wait_in_one_order_that_a_state_keeps():
    cut_off = make_sample(group_id="cut off", finish_reason=FinishReason.ABORT, policy_version=3)
    whole = make_sample(group_id="cut off", index=1, reward=1.0, policy_version=3)
    buffer = SampleBuffer(max_staleness=1)
    buffer.put([make_group("surplus", policy_version=3)])
    buffer.put([SampleGroup(group_id="cut off", samples=(cut_off, whole))])
    buffer.put([make_group("later", policy_version=4)])
    first = buffer.take(1, policy_version=4)
    buffer.put_back(first)
    restored = SampleBuffer(max_staleness=1)
    restored.load_state_dict(buffer.state_dict())
    for each in (buffer, restored):
        taken = each.take(3, policy_version=4)
        assert ids(taken) == ["surplus", "cut off", "later"]
        assert [is_unfinished(group) for group in taken] == [False, True, False]
        assert [sample.reward for sample in taken[1].samples] == [None, 1.0]
        each.put_back(taken)
        # One publish later the two older ones are two behind.
        assert ids(each.take(3, policy_version=5)) == ["later"]
        assert (len(each), each.num_expired) == (0, 2)


def test_a_state_that_cannot_be_loaded_leaves_the_buffer_as_it_is():
    buffer, other = SampleBuffer(), SampleBuffer()
    buffer.put([make_group("a")])
    other.put([make_group("b"), make_group("c")])
    state = msgspec.json.decode(msgspec.json.encode(other.state_dict()))
    state["groups"][1]["group_id"] = "d"
    with pytest.raises(DataError, match=r"sample buffer, group 1: not a group: group d: holds samples of \['c'\]"):
        buffer.load_state_dict(state)
    assert ids(buffer.take(9, policy_version=1)) == ["a"]


def test_states_of_other_versions_and_damaged_ones_are_refused():
    buffer = SampleBuffer()
    with pytest.raises(SchemaVersionError, match="expected state_version 1, found 2"):
        buffer.load_state_dict({**buffer.state_dict(), "state_version": 2})
    with pytest.raises(DataError, match="expected groups and num_expired"):
        buffer.load_state_dict({"state_version": 1})
    with pytest.raises(DataError, match="sample buffer, group 0: expected an object with group_id and samples"):
        buffer.load_state_dict({"state_version": 1, "num_expired": 0, "groups": [3]})


def test_a_negative_staleness_is_refused():
    with pytest.raises(DataError, match="expected max_staleness of at least 0, got -1"):
        SampleBuffer(max_staleness=-1)


@settings(max_examples=40)
@given(
    versions=st.lists(st.integers(0, 6), max_size=12),
    takes=st.lists(st.integers(0, 4), max_size=8),
    max_staleness=st.one_of(st.none(), st.integers(0, 3)),
)
def test_whatever_is_taken_is_young_enough_in_order_and_the_same_after_a_resume(
    versions: list[int], takes: list[int], max_staleness: int | None
):
    """Against a plain list, with a save and a load before every take."""
    buffer = SampleBuffer(max_staleness=max_staleness)
    buffer.put([make_group(str(number), policy_version=version) for number, version in enumerate(versions)])
    waiting, num_expired = list(enumerate(versions)), 0
    for now, num_groups in enumerate(takes):
        resumed = SampleBuffer(max_staleness=max_staleness)
        resumed.load_state_dict(msgspec.json.decode(msgspec.json.encode(buffer.state_dict())))
        expected: list[str] = []
        while waiting and len(expected) < num_groups:
            number, version = waiting.pop(0)
            is_young = max_staleness is None or now - version <= max_staleness
            expected += [str(number)] if is_young else []
            num_expired += not is_young
        assert ids(buffer.take(num_groups, policy_version=now)) == expected
        assert ids(resumed.take(num_groups, policy_version=now)) == expected
        assert buffer.num_expired == resumed.num_expired == num_expired
        assert buffer.state_dict() == resumed.state_dict()
