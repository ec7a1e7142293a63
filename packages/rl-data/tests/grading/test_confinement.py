"""What a process that compares cannot do, and what text of a model does not become there."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl_data.grading.workers.system_calls import ALLOWED, OPENING

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the kernel's part is Linux's"
)


def run(program: str, folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ATTEMPTS = """
import os, resource, socket, subprocess, threading
from rl_data.grading.workers.confinement import confine

assert confine()
ATTEMPTS = {
    "write": lambda: open("new", "w"),
    "append": lambda: open("old", "a"),
    "change": lambda: open("old", "r+"),
    "temporary": lambda: os.open(".", os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda: os.mkdir("folder"),
    "unlink": lambda: os.unlink("old"),
    "rename": lambda: os.rename("old", "new"),
    "symlink": lambda: os.symlink("old", "new"),
    "truncate": lambda: os.truncate("old", 0),
    "chmod": lambda: os.chmod("old", 0o777),
    "socket": lambda: socket.create_connection(("127.0.0.1", 1)),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": lambda: os.fork(),
    "program": lambda: subprocess.run(["true"]),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "thread": lambda: threading.Thread(target=print).start(),
    "signal": lambda: os.kill(os.getppid(), 0),
    "limits": lambda: resource.prlimit(0, resource.RLIMIT_NOFILE, (64, 64)),
    "read": lambda: open("old").read(),
    "import": lambda: __import__("sympy.physics.optics"),
}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        print(name)
    except (OSError, RuntimeError) as error:
        assert isinstance(error, PermissionError) or name == "thread", error
"""


@on_linux
def test_a_confined_process_reads_and_computes_and_does_nothing_else(tmp_path: Path):
    (tmp_path / "old").write_text("old")
    assert run(ATTEMPTS, tmp_path) == ["read", "import"]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


UNCONFINED = """
import io, sys
from rl_data.grading.workers import replacing
from rl_data.grading.workers.messages import Comparison, Request, Verdict
import msgspec

replacing.confine = lambda: False
task = Request(task=Comparison(answer="1", label="1"), timeout_s=1.0)
for is_confined in (False, True):
    requests, output = io.BytesIO(msgspec.json.encode(task) + b"\\n"), open(1, "wb", buffering=0, closefd=False)
    try:
        replacing.answer_replaceably(requests, output, lambda _: Verdict(value=1.0, reason=""), is_confined=is_confined)
    except RuntimeError as error:
        print(error)
"""


def test_a_child_that_is_not_confined_answers_only_where_its_owner_was_told_so(tmp_path: Path):
    taken, verdict, refusal = run(UNCONFINED, tmp_path)
    assert (taken, '"value":1.0' in verdict) == ("taken", True)
    assert refusal == "the system has confined grading processes, and does so no more"


@pytest.mark.parametrize("machine", HEADERS)
def test_system_calls_have_the_numbers_of_the_kernel(machine: str):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    # The generic header numbers those by NR3264 that a 32-bit machine has two of, and renames fstatat.
    defined = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", HEADERS[machine].read_text(), re.MULTILINE)
    kernels = {{"fstatat": "newfstatat"}.get(name, name): int(number) for name, number in defined}
    ours = {**ALLOWED, **{name: opening.numbers for name, opening in OPENING.items()}}
    assert {name: getattr(numbers, machine) for name, numbers in ours.items()} == {
        name: kernels.get(name) for name in ours
    }


# Python without brackets, quotes and blanks, as they are lost in \\text: it sets an attribute of a class of numpy.
RUNS_CODE = "[0for[errstate.hacked]in[[1]]][0]"
SUMMING = f"""
import sys, warnings
import math_verify, numpy, sympy
from rl_data.grading.workers.text_as_code import refuse_code_of_text

warnings.simplefilter("ignore")
if sys.argv[-1] != "unguarded":
    refuse_code_of_text()
def summed(text):
    (found, _) = math_verify.parse(text, parsing_timeout=None)
    (series,) = found.atoms(sympy.Sum)
    try:
        return series.evalf(8)
    except (NameError, TypeError):  # the name has no value
        return sympy.Symbol("x")
print(summed(r"$\\mathrm{{x}} + \\sum_{{n=0}}^{{\\infty}} \\frac{{1}}{{n!*(1+\\text{{{RUNS_CODE}}}*n)}}$").is_number)
print(hasattr(numpy.errstate, "hacked"))
print(summed(r"$x + \\sum_{{n=0}}^{{\\infty}} \\frac{{1}}{{n!}}$"))
try:
    sympy.parse_expr("__import__('os').getpid() + 0*(lambda: 1)()")
    print("ran")
except NotImplementedError:
    print("refused")
print(sympy.parse_expr("(1+2)*3/4 - 2**3 + x*pi - x*pi", evaluate=False).doit())
"""


def test_a_name_that_is_code_is_not_run_and_series_are_summed_all_the_same(tmp_path: Path):
    assert run(SUMMING, tmp_path) == ["False", "False", "2.7182818", "refused", "-23/4"]


def test_without_the_guard_it_would_be_run(tmp_path: Path):
    program = SUMMING.replace("sys.argv[-1]", "'unguarded'")
    lines = run(program, tmp_path)
    assert (lines[1], lines[3]) == ("True", "ran")


def test_a_system_that_cannot_confine_is_named_once_and_grades_all_the_same(tmp_path: Path):
    # Python imports a module of this name when it starts: the worker takes its machine for another.
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'sparc64'\n")
    program = (
        "from rl_data import GraderConfig, GraderPool\n"
        "with GraderPool(GraderConfig(rm_type='math', rm_num_workers=2)) as pool:\n"
        "    pool.start()\n"
        "    print([pool.grade_now(f'\\\\boxed{{{2 * n}x/{n}}}', '2x').value for n in range(2, 8)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]\n"
    assert done.stderr.count("grading processes are not confined") == 1
