"""Graders that need no reference answer, sums of graders, and the settings of all."""

import asyncio

import pytest

from rl_data import DataError, GradeOutcome, GraderConfig, GraderPool
from rl_data.grading import RM_TYPES, can_be_negative, needs_label
from rl_data.grading.rm_type import parse_rm_type


@pytest.mark.parametrize(
    ("response", "value", "reason"),
    [
        ("<think>1+1</think>2", 1.0, "thinking and an answer"),
        ("\n<think>\n1+1\n</think>\n\n2", 1.0, "thinking and an answer"),
        ("1+1</think>2", 1.0, "thinking and an answer"),  # the prompt opened the tag
        ("2", 0.0, "no </think>"),
        ("<think>1+1", 0.0, "no </think>"),
        ("<think>1</think>2</think>3", 0.0, "more than one </think>"),
        ("<think> </think>2", 0.0, "no thinking"),
        ("<think>1+1</think>\n", 0.0, "no answer after </think>"),
        ("so <think>1</think>2", 0.0, "<think> stands elsewhere than at the beginning"),
        ("<think>1</think>2<think>", 0.0, "<think> stands elsewhere than at the beginning"),
    ],
)
def test_the_format_is_thinking_and_then_an_answer(response: str, value: float, reason: str):
    with GraderPool("format") as graders:
        grade = graders.grade_now(response, None)
    assert (grade.value, grade.reason) == (value, reason)


def overlong(**values: object) -> GraderConfig:
    return GraderConfig(rm_type="overlong", overlong_buffer_len=4, rollout_max_response_len=10, **values)


@pytest.mark.parametrize(("num_tokens", "value"), [(0, 0), (6, 0), (7, -0.25), (8, -0.5), (10, -1), (12, -1)])
def test_the_penalty_of_length_rises_over_the_buffer(num_tokens: int, value: float):
    """DAPO's equation 13 by hand, for L = 10 and C = 4."""
    with GraderPool(overlong()) as graders:
        assert graders.grade_now("any", None, num_tokens=num_tokens).value == value


def test_the_penalty_of_length_needs_the_length():
    with GraderPool(overlong()) as graders, pytest.raises(DataError, match="expected the number of the response's tok"):
        graders.grade_now("any", None)


def test_a_sum_adds_weighted_values_and_names_them():
    with GraderPool("0.75*dapo + 0.25 * format") as graders:
        grade = graders.grade_now("<think>2</think>Answer: 3", "2")
        assert grade.value == 0.75 * -1.0 + 0.25 * 1.0
        assert grade.reason == "dapo -1 (answer '3' is not '2'); format 1 (thinking and an answer)"


def test_a_sum_waits_for_its_mathematics_wherever_it_is_asked():
    with GraderPool("0.5*math+0.5*format") as graders:
        right = "<think>hm</think>Answer: $\\sqrt{16}$"
        assert graders.grade_now(right, "4").value == 1.0
        grades = asyncio.run(graders.grade_many([(right, "4", None), ("Answer: $\\sqrt{17}$", "4", None)]))
        assert [grade.value for grade in grades] == [1.0, 0.0]
        assert graders.outcomes == {GradeOutcome.GRADED: 3}


def test_a_sum_has_no_value_where_a_part_has_none():
    endless = "<think>x</think>\\boxed{9^{9^{9^{9^{9}}}}!}"
    with GraderPool(GraderConfig(rm_type="math+format", rm_timeout_s=0.5, rm_num_workers=1)) as graders:
        grade = graders.grade_now(endless, "\\sqrt{x}")
        if grade.outcome is GradeOutcome.GRADED:
            pytest.skip(f"math-verify decides it without computing: {grade.reason}")
        assert grade.value is None
        assert grade.reason.startswith("math: ")
        assert graders.outcomes == {grade.outcome: 1}


def test_a_row_may_name_a_sum():
    with GraderPool("dapo") as graders:
        assert graders.grade_now("Answer: 2", "2", {"rm_type": "3*boxed+dapo"}).value == 1.0


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("math", [(1.0, "math")]),
        (" 2*math + -1e-1*format", [(2.0, "math"), (-0.1, "format")]),
    ],
)
def test_reward_types_are_read(text: str, terms: list[tuple[float, str]]):
    assert list(parse_rm_type(text)) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maths", r"rm_type: expected one of \['boxed', .*\] or a sum such as 0.9\*math\+0.1\*format, got 'maths'"),
        ("math+remote_rm", "got 'remote_rm'; the nearest is remote$"),
        ("psychic", "got 'psychic'$"),
        ("math+psychic", r"rm_type 'math\+psychic': expected one of .*, got 'psychic'"),
        ("math+math", r"rm_type 'math\+math': expected each grader once, got math more often"),
        ("x*math", r"rm_type 'x\*math': expected a number other than 0 before math, got 'x'"),
        ("0*math", r"expected a number other than 0 before math, got '0'"),
        ("inf*math", r"expected a number other than 0 before math, got 'inf'"),
        ("", r"rm_type: expected one of .*, got ''"),
    ],
)
def test_reward_types_that_make_no_sense_are_refused(text: str, message: str):
    with pytest.raises(DataError, match=message):
        GraderConfig(rm_type=text)


def test_what_is_known_of_a_reward_type():
    assert {name for name in RM_TYPES if not needs_label(name)} == {"custom", "format", "overlong", "remote"}
    assert needs_label("0.5*format+0.5*math")
    assert {name for name in RM_TYPES if can_be_negative(name)} == {"dapo", "overlong"}
    assert can_be_negative("math + -0.1*format")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rm_type": "custom"}, "rm_type custom: custom_rm_path is missing"),
        ({"rm_type": "math+remote"}, "rm_type remote: rm_url is missing"),
        ({"rm_type": "overlong"}, "rm_type overlong: overlong_buffer_len is missing"),
        (
            {"overlong_buffer_len": 4, "rollout_max_response_len": 3},
            "overlong_buffer_len 4: expected at least 1 and at most rollout_max_response_len 3",
        ),
        ({"rm_url": "ftp://x"}, "rm_url ftp://x: expected an address that begins with http:// or https://"),
        ({"rm_url": "http://"}, "rm_url http://: expected .* as http://HOST:PORT/PATH, got no host"),
        ({"rm_url": "http://[::1"}, r"rm_url http://\[::1: expected .* as http://HOST:PORT/PATH: Invalid IPv6 URL"),
        ({"rm_url": "http://a:99999"}, "rm_url http://a:99999: expected .* as http://HOST:PORT/PATH: Port out of"),
        ({"rm_url": "http://a:0/"}, "rm_url http://a:0/: expected .* as http://HOST:PORT/PATH, got no port"),
        ({"rm_timeout_s": 0.0}, r"rm_timeout_s 0\.0: expected a number above 0"),
        ({"rm_timeout_s": float("inf")}, r"rm_timeout_s inf: expected a number above 0 and at most 1000000"),
        ({"rm_max_retries": -1}, "rm_max_retries -1: expected at least 0"),
        ({"rm_max_concurrency": 0}, "rm_max_concurrency 0: expected at least 1"),
    ],
)
def test_settings_that_lack_or_contradict_something_are_refused(values: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        GraderConfig(**values)


def test_the_type_follows_from_what_is_given():
    assert GraderConfig().chosen_type == "deepscaler"
    assert GraderConfig(custom_rm_path="a.b").chosen_type == "custom"
    assert GraderConfig(custom_rm_path="a.b", rm_url="http://a").without_effect({"custom"}) == {"rm_url": "remote"}
    assert GraderConfig(rm_url="http://127.0.0.1:1").chosen_type == "remote"
    assert GraderConfig(rm_type="math", rm_url="http://127.0.0.1:1").chosen_type == "math"


def test_a_row_may_not_name_a_grader_that_lacks_its_settings():
    with GraderPool("math") as graders, pytest.raises(DataError, match="rm_type custom: custom_rm_path is missing"):
        graders.check_label("1", {"rm_type": "custom"})
