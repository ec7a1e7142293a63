"""Functions of the user, in processes of their own."""

import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from rl_data import DataError, GradeOutcome, GraderConfig, GraderPool

REWARDS = """
import asyncio, functools, os, sys, time

def grade(response, label, metadata):
    print("what a function prints does no harm")
    if response == "hang":
        time.sleep(60)
    if response == "die":
        os._exit(3)
    if response == "memory":
        raise MemoryError("no more")
    if response == "raise":
        raise KeyError("no such thing")
    if response == "nonsense":
        return "good"
    if response == "read":
        return len(sys.stdin.read()), "read nothing"
    return float(len(response) == int(label)) + metadata.get("bonus", 0), f"{len(response)} letters"

async def grade_later(response, label, metadata):
    await asyncio.sleep(0)
    return True

def of_two(response, label):
    return 1.0

@functools.wraps(of_two)
def adapted(response, label, metadata):
    return of_two(response, label)

async def of_a_sample(args, sample, **kwargs):
    return 1.0

NOT_A_FUNCTION = 3
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_rewards.py").write_text(REWARDS)
    sys.path.insert(0, str(folder))
    yield "my_rewards"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def graders(rewards: str) -> Generator[GraderPool]:
    config = GraderConfig(custom_rm_path=f"{rewards}.grade", rm_num_workers=1, rm_timeout_s=1.0)
    with GraderPool(config) as graders:
        yield graders


def test_a_function_gives_a_value_and_a_reason(graders: GraderPool):
    grade = graders.grade_now("abc", "3", {"bonus": 0.5})
    assert (grade.value, grade.reason) == (1.5, "3 letters")
    assert graders.grade_now("ab", "3").value == 0.0


@pytest.mark.parametrize(
    ("response", "outcome", "reason"),
    [
        ("hang", GradeOutcome.TIMEOUT, "response 'hang' was not graded within 1 s"),
        ("die", GradeOutcome.CRASH, "a grading process died: exit status 3"),
        ("memory", GradeOutcome.CRASH, "MemoryError: no more"),
        ("raise", GradeOutcome.CRASH, "KeyError: 'no such thing'"),
        ("nonsense", GradeOutcome.CRASH, "TypeError: expected a finite number, or a number and a reason, got good"),
    ],
)
def test_what_goes_wrong_in_it_is_an_outcome_and_the_next_response_is_graded(
    graders: GraderPool, response: str, outcome: GradeOutcome, reason: str
):
    before = graders.outcomes.get(outcome, 0)
    start = time.monotonic()
    grade = graders.grade_now(response, "3")
    assert (grade.value, grade.outcome) == (None, outcome)
    assert grade.reason.startswith(reason)
    assert time.monotonic() - start < 10.0
    assert graders.outcomes[outcome] == before + 1
    assert graders.grade_now("abc", "3").value == 1.0


def test_no_response_pays_for_one_that_ran_out_of_memory_or_for_a_process_that_was_killed_while_idle(rewards: str):
    config = GraderConfig(custom_rm_path=f"{rewards}.grade", rm_num_workers=1)
    before = set(psutil.Process().children())
    with GraderPool(config) as graders:
        assert graders.grade_now("abc", "3").value == 1.0
        for _ in range(3):
            assert graders.grade_now("memory", "3").reason == "MemoryError: no more"
            assert graders.grade_now("abc", "3").value == 1.0
        (idle,) = set(psutil.Process().children()) - before
        idle.suspend()  # so that it is dead only after the next task was sent to it
        threading.Timer(0.2, idle.kill).start()
        assert graders.grade_now("abc", "3").value == 1.0
        assert graders.outcomes[GradeOutcome.CRASH] == 3


def test_it_reads_and_prints_without_meeting_the_pipes(graders: GraderPool):
    grade = graders.grade_now("read", "3")
    assert (grade.value, grade.reason) == (0.0, "read nothing")


def test_it_may_be_a_coroutine_function_part_of_a_sum_and_named_with_a_colon(rewards: str):
    config = GraderConfig(rm_type="2*custom+format", custom_rm_path=f"{rewards}:grade_later", rm_num_workers=1)
    with GraderPool(config) as graders:
        graders.start()
        assert graders.grade_now("any", None).value == 2.0


def test_it_may_be_wrapped_around_one_of_other_arguments(rewards: str):
    with GraderPool(GraderConfig(custom_rm_path=f"{rewards}.adapted", rm_num_workers=1)) as graders:
        graders.start()
        assert graders.grade_now("any", None).value == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all.f", "No module named 'no_such_module_at_all'"),
        ("my_rewards.missing", "has no attribute 'missing'"),
        ("my_rewards.NOT_A_FUNCTION", "expected a function, found int"),
        (
            "my_rewards.of_a_sample",
            r"of_a_sample\(args, sample, \*\*kwargs\): expected a function of \(response, label, metadata\): too many",
        ),
        ("alone", r"expected package\.module\.function"),
    ],
)
def test_a_path_without_a_function_is_refused_before_anything_is_graded(rewards: str, name: str, message: str):
    with pytest.raises(DataError, match=f"^custom_rm_path {name}: .*{message}"):
        GraderPool(GraderConfig(custom_rm_path=name))


def test_the_caller_does_not_import_the_function(rewards: str, tmp_path: Path):
    with GraderPool(GraderConfig(custom_rm_path=f"{rewards}.grade", rm_num_workers=1)):
        assert rewards not in sys.modules
