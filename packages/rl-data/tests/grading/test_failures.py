"""What goes wrong inside math-verify, in real worker processes: each imports a module that breaks math-verify there."""

import itertools
import os
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from rl_data import Grade, GradeOutcome, GraderConfig, GraderPool
from rl_data.grading.workers.process import GRACE_S

LIMIT_S = 1.0
NUMBERS = itertools.count(1)

# Python imports a module of this name when it starts. math-verify catches whatever its parser, `doit` and `simplify`
# raise, and says "not equal".
BREAKING = """
import os, signal, sys
import math_verify.grader, math_verify.parser

def burst():
    return bytearray(8 << 30)  # more than a worker may have

def dive():
    return dive()

def fail(kind):
    raise kind("injected")

def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    while True:
        pass

DO = {
    "m": burst,
    "r": dive,
    "t": lambda: fail(RuntimeError),
    "a": lambda: fail(AssertionError),
    "o": lambda: fail(ImportError),
    "v": lambda: fail(ValueError),
    "n": lambda: fail(NotImplementedError),
    "d": lambda: os._exit(9),
    "k": lambda: os.abort(),
    "h": hang,
    "w": lambda: open("hacked.txt", "w").write("hacked"),
    "s": lambda: fail(Exception) if os.system("touch hacked.txt") else None,
}

def after(mark, text):
    return text.split(mark)[1][:1] if mark in text else ""

def breaking(function, names):
    def broken(given, *args, **kwargs):
        for name in names(given):
            DO.get(name, lambda: None)()
        return function(given, *args, **kwargs)
    return broken

if sys.orig_argv[-3:] == ["-m", "rl_data.grading.workers", "math"]:
    math_verify.grader.simplify = breaking(math_verify.grader.simplify, lambda e: [s.name for s in e.free_symbols])
    parse, verify = math_verify.parser.latex2sympy, math_verify.verify
    math_verify.parser.latex2sympy = breaking(parse, lambda text: after("parse_", text))
    math_verify.verify = breaking(verify, lambda gold: after("verify_", str(gold)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("breaking")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Generator[GraderPool]:
    (folder / "sitecustomize.py").write_text(BREAKING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.chdir(folder)
        with GraderPool(GraderConfig(rm_type="math", rm_num_workers=1, rm_timeout_s=LIMIT_S)) as pool:
            assert in_simplify(pool, "x").value == 1.0
            yield pool


def in_simplify(pool: GraderPool, name: str) -> Grade:
    """A comparison that takes `simplify` to find that both are equal."""
    return pool.grade_now(f"\\boxed{{|{name}|}}", f"\\sqrt{{{name}^2}}")


def grades_well(pool: GraderPool) -> bool:
    """Whether a comparison that was not made before is graded, and soon: nothing is imported for it."""
    number = next(NUMBERS)
    start = time.monotonic()
    grade = pool.grade_now(f"\\boxed{{|x|+{number}}}", f"\\sqrt{{x^2}}+{number}")
    return grade.value == 1.0 and time.monotonic() - start < 1.0  # a tenth of it on an idle machine


def grading_processes() -> set[psutil.Process]:
    """Those that start workers, and the workers."""
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("r", "RecursionError: maximum recursion depth exceeded"),
        ("t", "RuntimeError: injected"),
        ("a", "AssertionError: injected"),
        ("o", "ImportError: injected"),
        ("m", "MemoryError: "),
    ],
)
def test_a_failure_that_math_verify_passes_over_is_a_crash(pool: GraderPool, name: str, reason: str):
    before = pool.outcomes.get(GradeOutcome.CRASH, 0)
    grade = in_simplify(pool, name)
    assert (grade.value, grade.outcome, grade.reason) == (None, GradeOutcome.CRASH, reason)
    parsing = pool.grade_now(f"\\boxed{{\\text{{parse_{name}}}+x}}", "\\sqrt{x}")
    assert (parsing.outcome, parsing.reason) == (GradeOutcome.CRASH, reason)
    of_the_label = pool.grade_now("\\boxed{x^2}", f"\\text{{parse_{name}}}+x")
    assert (of_the_label.outcome, of_the_label.reason) == (GradeOutcome.CRASH, reason)
    assert pool.outcomes[GradeOutcome.CRASH] == before + 3
    assert grades_well(pool)


@pytest.mark.parametrize("name", ["t", "v", "n"])
def test_whatever_math_verify_lets_out_is_a_crash(pool: GraderPool, name: str):
    # The label is what `verify` looks at first.
    grade = pool.grade_now("\\boxed{|x|}", f"\\text{{verify_{name}}}+x")
    assert grade.outcome is GradeOutcome.CRASH
    assert grade.reason.endswith("Error: injected")


@pytest.mark.parametrize("name", ["v", "n"])
def test_an_expression_that_cannot_be_evaluated_is_no_failure(pool: GraderPool, name: str):
    assert in_simplify(pool, name).value == 0.0
    assert pool.grade_now(f"\\boxed{{\\text{{parse_{name}}}+x}}", "\\sqrt{x}").value == 0.0


@pytest.mark.parametrize(
    "answer",
    ["\\frac{1}{", "x+", "\\begin{pmatrix}1&2", "{", "\\sqrt", "1<x<2<", "}{", "\\operatorname{rank}(3)"],
)
def test_a_malformed_answer_stays_a_wrong_one(pool: GraderPool, answer: str):
    assert pool.grade_now(f"Answer: ${answer}$", "\\frac{x}{2}").value == 0.0
    assert pool.grade_now("Answer: $\\sqrt{x}$", "\\frac{1}{0}").value == 0.0


def test_a_failure_beside_a_right_answer_does_not_make_it_less_right(pool: GraderPool):
    # The first reading fails, the text is the same.
    assert pool.grade_now("So it is $\\text{parse_t}+x$ cm.", "\\text{parse_t}+x").value == 1.0


@pytest.mark.parametrize(
    ("name", "reason"),
    [("d", "a grading process died: exit status 9"), ("k", "a grading process died: SIG"), ("m", "MemoryError: ")],
)
def test_a_process_that_dies_or_has_no_memory_left_is_replaced_at_once(pool: GraderPool, name: str, reason: str):
    before = grading_processes()
    grade = in_simplify(pool, name)
    assert (grade.value, grade.outcome) == (None, GradeOutcome.CRASH)
    assert grade.reason.startswith(reason)
    assert grades_well(pool)
    after = grading_processes()
    assert len(after) == len(before) == 2
    assert len(after & before) == 1


def test_one_that_does_not_heed_its_alarm_is_given_up_after_the_grace(pool: GraderPool):
    start = time.monotonic()
    grade = in_simplify(pool, "h")
    seconds = time.monotonic() - start
    assert grade.outcome is GradeOutcome.TIMEOUT
    assert LIMIT_S + GRACE_S <= seconds < LIMIT_S + GRACE_S + 1.0  # a second for a busy machine
    assert pool.grade_now("\\boxed{|x|+\\pi}", "\\sqrt{x^2}+\\pi").value == 1.0


@pytest.mark.parametrize("name", ["w", "s"])
def test_code_that_ran_in_a_worker_would_write_no_file_and_start_no_program(pool: GraderPool, folder: Path, name: str):
    in_simplify(pool, name)
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"sitecustomize.py"}
    assert grades_well(pool)
