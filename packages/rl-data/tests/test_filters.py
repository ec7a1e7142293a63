import pytest

from rl_data import DataError, DropIf, NoFailures, ResponseLengths, RewardSpread, SampleGroup, apply_filters
from rl_data.testing import make_group, make_sample


def test_groups_are_dropped_whole_and_counted_by_the_first_reason():
    failed = make_sample(group_id="f", reward=1.0).with_error("grader timed out")
    groups = [
        make_group("equal", rewards=(1.0, 1.0)),
        make_group("spread", rewards=(0.0, 1.0)),
        SampleGroup(group_id="f", samples=(failed,)),
        make_group("open", rewards=(1.0, None)),
        make_group("spread too", rewards=(-1.0, 1.0, 1.0)),
    ]
    result = apply_filters(groups, [NoFailures(), RewardSpread()])
    assert [group.group_id for group in result.kept] == ["spread", "spread too"]
    assert result.dropped == {"equal rewards": 1, "failed samples": 1, "not scored": 1}


def test_the_spread_and_the_failures_that_pass_can_be_set():
    group = make_group(rewards=(0.5, 0.6))
    assert RewardSpread(min_spread=0.2).reason_to_drop(group) == "equal rewards"
    assert RewardSpread(min_spread=0.05).reason_to_drop(group) is None
    failed = SampleGroup(group_id="0-0", samples=(make_sample().with_error("x"), make_sample(index=1)))
    assert NoFailures(max_failed=1).reason_to_drop(failed) is None


def of_lengths(*lengths: int) -> SampleGroup:
    samples = (make_sample(index=index, response_length=length) for index, length in enumerate(lengths))
    return SampleGroup(group_id="0-0", samples=tuple(samples))


def test_one_response_of_a_length_that_is_not_wanted_drops_the_group():
    lengths = ResponseLengths(min_tokens=2, max_tokens=5)
    assert lengths.reason_to_drop(of_lengths(2, 5)) is None
    assert lengths.reason_to_drop(of_lengths(2, 6)) == "long responses"
    assert lengths.reason_to_drop(of_lengths(1, 6)) == "short responses"
    assert ResponseLengths().reason_to_drop(of_lengths(0, 10_000)) is None
    for bounds in ({"min_tokens": -1}, {"min_tokens": 3, "max_tokens": 2}):
        with pytest.raises(DataError, match="expected 0 <= min_tokens <= max_tokens"):
            ResponseLengths(**bounds)


def test_a_function_of_the_caller_drops_under_its_own_reason():
    only_equal = DropIf(reason="one answer", test=lambda group: len({s.response_text for s in group.samples}) == 1)
    result = apply_filters(
        [make_group("a"), make_group("b", rewards=(1.0,))], [RewardSpread(min_spread=-1.0), only_equal]
    )
    assert [group.group_id for group in result.kept] == ["a"]
    assert result.dropped == {"one answer": 1}


def test_every_group_is_kept_or_counted_once_under_the_first_reason():
    groups = [
        make_group("a", rewards=(0.0, 1.0)),
        make_group("b", rewards=(1.0, 1.0)),
        make_group("c", rewards=(1.0, float("nan"))),
        SampleGroup(group_id="d", samples=()),
        of_lengths(2, 9),
    ]
    filters = [ResponseLengths(max_tokens=8), RewardSpread(), DropIf(reason="mine", test=lambda group: True)]
    result = apply_filters(groups, filters)
    assert result.kept == ()
    assert result.dropped == {"long responses": 1, "equal rewards": 1, "not scored": 1, "no samples": 1, "mine": 1}
    assert apply_filters(groups, []).kept == tuple(groups)
