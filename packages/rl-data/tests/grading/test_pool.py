import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from rl_data import DataError, Grade, GradeOutcome, GraderConfig, GraderPool
from rl_data.grading import ANSWER_GRADERS
from rl_data.grading.workers.process import GRACE_S, LATE_S

# An expression that sympy would work on until the end of days.
ENDLESS = "\\int \\frac{\\sin(x^{x^{x}})}{\\ln(x)^{x}} dx + \\sum_{k=1}^{\\infty} \\frac{\\sin(k^{k})}{k^{k!}}"


def test_a_grade_without_a_value_is_never_a_zero():
    with pytest.raises(ValueError, match=r"value 0\.0 does not go with outcome timeout"):
        Grade(value=0.0, outcome=GradeOutcome.TIMEOUT)
    with pytest.raises(ValueError, match="value None does not go with outcome graded"):
        Grade(value=None)
    with pytest.raises(ValueError, match="expected a finite value"):
        Grade(value=float("inf"))


@pytest.fixture(scope="module")
def pool():
    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=2, rm_timeout_s=3.0)) as pool:
        pool.start()
        yield pool


@pytest.mark.parametrize(
    ("response", "label", "value"),
    [
        ("Answer: $\\sqrt{16}$", "4", 1.0),
        ("\\boxed{x(x+1)}", "x^2+x", 1.0),
        ("\\boxed{(2,1)}", "(1,2)", 0.0),
        ("Answer: $\\sqrt{16}$<|im_end|>", "4", 1.0),
        ("\\boxed{\\frac{\\sqrt{2}}{2}}", "\\frac{1}{\\sqrt{2}}", 1.0),
        ("Answer: $\\frac{3}{2}x + \\frac{x}{2}$", "2x", 1.0),
        ("\\boxed{\\frac{x+1}{3}}", "\\frac{x+2}{3}", 0.0),
        ("\\boxed{|x|}", "\\sqrt{x^2}", 1.0),
        ("\\boxed{3.14}", "\\pi", 0.0),
        ("\\boxed{\\frac{2x}{2}}", "x", 1.0),
        ("\\boxed{x}", "3x-2x", 1.0),
        ("\\boxed{x^2}", "x", 0.0),
        ("\\boxed{\\sqrt{x^2}}", "x", 0.0),
        ("\\boxed{(1, \\sqrt{4})}", "(1,2)", 1.0),
        ("It is $\\frac{\\pi}{2}$.", "\\frac{\\pi}{2}", 1.0),
        ("So it is $32,348$.", "\\$32,\\!348", 1.0),
    ],
)
def test_equal_mathematics_is_right(pool: GraderPool, response: str, label: str, value: float):
    assert pool.grade_now(response, label).value == value


def test_equal_comparisons_are_made_once_and_one_who_waits_may_leave(pool: GraderPool):
    response, label = "Answer: $\\sqrt{2}+\\sqrt{8}$", "3\\sqrt{2}"

    async def leave_one() -> list[Grade | BaseException]:
        waiting = [asyncio.ensure_future(pool.grade(response, label)) for _ in range(8)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    left, *others = asyncio.run(leave_one())
    assert isinstance(left, asyncio.CancelledError)
    assert [grade.value for grade in others] == [1.0] * 7
    start = time.process_time()
    assert [pool.grade_now(response, label).value for _ in range(1000)] == [1.0] * 1000
    assert time.process_time() - start < 1.0  # 1 ms each; a comparison takes 10


def test_one_pool_serves_threads_and_event_loops_at_once(pool: GraderPool):
    grades: list[Grade] = []

    def work() -> None:
        items = [(f"Answer: $\\sqrt{{{n * n}}}$", str(n), None) for n in range(2, 12)]
        grades.extend(asyncio.run(pool.grade_many(items)))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [grade.value for grade in grades] == [1.0] * 30


def test_a_row_may_name_its_own_grader(pool: GraderPool):
    assert pool.grade_now("Answer: 5", "4", {"rm_type": "dapo"}).value == -1.0
    assert pool.grade_now("Answer: 5", "4", {"rm_type": None}).value == 0.0  # as in parquet, where others name one
    with pytest.raises(DataError, match=r"rm_type: expected one of .*, got 'none'"):
        pool.grade_now("Answer: 5", "4", {"rm_type": "none"})
    with pytest.raises(DataError, match="metadata: expected rm_type as text, got 3"):
        pool.grade_now("Answer: 5", "4", {"rm_type": 3})


def test_a_comparison_without_end_is_a_timeout_and_the_pool_lives_on():
    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=1, rm_timeout_s=1.0)) as pool:
        assert pool.grade_now("Answer: $\\sqrt{16}$", "4").value == 1.0
        start = time.monotonic()
        grade = pool.grade_now(f"\\boxed{{{ENDLESS}}}", "\\sqrt{x}")
        if grade.outcome is GradeOutcome.GRADED:
            pytest.fail(f"the expression is not endless any more: {grade}")
        assert grade.outcome is GradeOutcome.TIMEOUT
        assert "was not graded within 1 s" in grade.reason
        assert time.monotonic() - start < 10.0
        assert pool.grade_now("Answer: $\\sqrt{16}$", "4").value == 1.0


def test_answers_without_end_take_their_limit_each_and_no_start_of_a_process():
    limit_s = 0.5
    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=1, rm_timeout_s=limit_s)) as pool:
        pool.grade_now("Answer: $\\sqrt{16}$", "4")
        for number in range(4):
            start = time.monotonic()
            hostile = pool.grade_now(f"\\boxed{{{ENDLESS}+{number}}}", "\\sqrt{x}")
            hostile_s = time.monotonic() - start
            good = pool.grade_now(f"Answer: $\\sqrt{{{(number + 5) ** 2}}}$", str(number + 5))
            good_s = time.monotonic() - start - hostile_s
            assert hostile.outcome is GradeOutcome.TIMEOUT
            assert limit_s <= hostile_s < limit_s + GRACE_S + 0.2  # by 5 ms on an idle machine
            assert good.value == 1.0
            assert good_s < limit_s  # to import sympy would take longer


def stopped_while_grading(pool: GraderPool) -> tuple[int, Grade, float]:
    """A worker that gets no processor any more while it grades an answer without end, the grade, and its seconds."""
    workers = pool._math_workers
    done: list[tuple[Grade, float]] = []

    def grade() -> None:
        start = time.monotonic()
        done.append((pool.grade_now(f"\\boxed{{{ENDLESS}}}", "\\sqrt{x}"), time.monotonic() - start))

    thread = threading.Thread(target=grade)
    thread.start()
    time.sleep(0.3)
    (asked,) = set(workers._workers) - set(workers._idle._workers)
    number = asked._process.pid
    os.killpg(number, signal.SIGSTOP)
    thread.join(timeout=10)
    return number, *done[0]


def test_a_worker_that_gets_no_processor_is_given_up_and_ready_again_when_it_does():
    limit_s = 1.0
    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=1, rm_timeout_s=limit_s)) as pool:
        pool.grade_now("Answer: $\\sqrt{16}$", "4")
        stopped, grade, seconds = stopped_while_grading(pool)
        assert grade.outcome is GradeOutcome.TIMEOUT
        assert seconds < limit_s + GRACE_S + 0.5  # half a second for a busy machine
        os.killpg(stopped, signal.SIGCONT)
        assert pool.grade_now("Answer: $\\sqrt{25}$", "5").value == 1.0
        assert pool._math_workers._workers[0]._process.pid == stopped


def test_a_worker_that_stays_stopped_is_replaced_while_another_that_is_ready_grades():
    def wait_until_ready(pool: GraderPool) -> None:
        deadline = time.monotonic() + 30.0
        while not all(worker.is_ready for worker in pool._math_workers._workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=2, rm_timeout_s=1.0)) as pool:
        pool.start()
        wait_until_ready(pool)
        stopped, grade, _ = stopped_while_grading(pool)
        assert grade.outcome is GradeOutcome.TIMEOUT
        start = time.monotonic()
        assert pool.grade_now("Answer: $\\sqrt{25}$", "5").value == 1.0
        assert time.monotonic() - start < LATE_S / 2
        wait_until_ready(pool)
        assert not psutil.pid_exists(stopped)


@pytest.mark.parametrize("response", ["Answer: $\\sqrt{x}\ud800$", "Answer: $x$\ud800"])
def test_half_a_surrogate_pair_is_no_exception(pool: GraderPool, response: str):
    grade = pool.grade_now(response, "\\frac{1}{x}")
    assert grade.outcome is GradeOutcome.CRASH
    assert "not sent to a grading process" in grade.reason


def test_a_worker_that_dies_is_a_crash_and_the_pool_lives_on():
    before = set(psutil.Process().children())
    with GraderPool(GraderConfig(rm_type="math", rm_num_workers=1)) as pool:
        assert pool.grade_now("Answer: $\\sqrt{16}$", "4").value == 1.0
        (worker,) = set(psutil.Process().children()) - before  # what it started ends with it
        done: list[Grade] = []
        thread = threading.Thread(target=lambda: done.append(pool.grade_now(f"\\boxed{{{ENDLESS}}}", "\\sqrt{x}")))
        thread.start()
        time.sleep(0.5)
        worker.kill()
        thread.join(timeout=10)
        assert done[0].outcome is GradeOutcome.CRASH
        assert "a grading process died" in done[0].reason
        assert pool.grade_now("Answer: $\\sqrt{16}$", "4").value == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "{" * 2000,
        "(" * 2000 + "1" + ")" * 2000,
        "\\frac{" * 500 + "1" + "}{2}" * 500,
        "9^{9^{9^{9^{9}}}}",
        "10!" + "!" * 50,
        "__import__('os').system('echo hacked > hacked.txt')",
        "{" * 1_000_000,
        "\\boxed{" * 100_000,
        "\\x00\u202e\ud7ff" * 100,
    ],
)
def test_hostile_answers_are_never_right_and_end_in_time(
    pool: GraderPool, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    grade = pool.grade_now(f"Answer: {answer}", "19")
    assert grade.value in (0.0, None)
    assert time.monotonic() - start < 20.0  # 3 s, and the start of a new process on a busy machine
    assert list(tmp_path.iterdir()) == []
    assert pool.grade_now("Answer: $\\sqrt{16}$", "4").value == 1.0


def test_integers_start_no_process_and_take_no_time():
    before = len(psutil.Process().children())
    with GraderPool("deepscaler") as pool:
        items = [(f"Thinking {n}.\nAnswer: {n % 30}", "19", None) for n in range(128)]
        start = time.process_time()
        grades = asyncio.run(pool.grade_many(items))
        seconds = time.process_time() - start
        assert len(psutil.Process().children()) == before
    assert sum(grade.value for grade in grades) == 4
    assert seconds < 0.05


def test_closing_leaves_no_process_even_while_one_compares():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    pool = GraderPool(GraderConfig(rm_type="math", rm_num_workers=2, rm_timeout_s=60.0))
    done: list[Grade] = []
    thread = threading.Thread(target=lambda: done.append(pool.grade_now(f"\\boxed{{{ENDLESS}}}", "\\sqrt{x}")))
    thread.start()
    pool.start()
    time.sleep(1.5)
    pool.close()
    thread.join(timeout=10)
    assert done[0].outcome is GradeOutcome.CRASH
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_workers_end_when_their_owner_is_killed():
    program = f"""
import sys, threading
from rl_data import GraderConfig, GraderPool
pool = GraderPool(GraderConfig(rm_type="math", rm_num_workers=1, rm_timeout_s=2.0))
pool.grade_now("Answer: $\\\\sqrt{{16}}$", "4")
worker = pool._math_workers._workers[0]._process.pid
threading.Thread(target=pool.grade_now, args=({("Answer: " + ENDLESS)!r}, "x"), daemon=True).start()
print(worker, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        worker = int(owner.stdout.readline())
        assert psutil.pid_exists(worker)
        owner.kill()
    deadline = time.monotonic() + 10.0  # the time of one comparison, a second more, and slack
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its owner"
        time.sleep(0.1)


def test_a_script_without_a_guard_may_use_a_pool(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from rl_data import GraderPool\n"
        "with GraderPool('math') as pool:\n"
        "    print(pool.grade_now('Answer: $\\\\sqrt{16}$', '4').value)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1.0\n", "")


def test_settings_and_labels_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match=r"rm_type: expected one of \['boxed', .*\] or a sum .*, got 'maths'"):
        GraderPool("maths")
    with pytest.raises(DataError, match="rm_num_workers 0: expected at least 1"):
        GraderPool(GraderConfig(rm_type="math", rm_num_workers=0))
    with GraderPool("dapo") as pool, pytest.raises(DataError, match="expected a label to compare with, got none"):
        pool.grade_now("Answer: 4", None)
    with GraderPool("gsm8k") as pool, pytest.raises(DataError, match="expected a label that is a number, got 'x'"):
        pool.grade_now("Answer: 4", "x")


@pytest.mark.parametrize("rm_type", ANSWER_GRADERS)
def test_a_label_is_checked_without_a_response_and_without_a_process(rm_type: str):
    with GraderPool(rm_type) as graders:
        before = {process.pid for process in psutil.Process().children()}
        graders.check_label("B" if rm_type == "multiple_choice" else "42")
        for label, metadata in ((None, None), ("", None), (" ", None), ("42", {"rm_type": "psychic"})):
            with pytest.raises(DataError):
                graders.check_label(label, metadata)
        assert {process.pid for process in psutil.Process().children()} == before
