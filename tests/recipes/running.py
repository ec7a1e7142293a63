"""A recipe run as a user runs it, in a process group of its own, and every process that it starts."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get("RL_SHARED_DATA", ROOT.parent / "shared" / "data"))
_POLL_S = 0.1


class Run:
    """One command, its output in files, and a thread that remembers every process below it.

    Its folder of temporary files is its own, so that what it leaves there can be seen.
    """

    def __init__(self, words: Sequence[str], log_folder: Path) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = log_folder / "out.txt", log_folder / "err.txt"
        # Ray's sockets lie below it, and the path of a socket may not be long.
        self.tmp = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
        environment = {**os.environ, "TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        environment["RAY_AUTH_MODE"] = "disabled"  # which a recipe does not do, whatever the shell says
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True
            )
        self._seen: dict[int, psutil.Process] = {}
        self._is_watched = True
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def processes(self) -> list[psutil.Process]:
        """Those alive of the driver and of all that were ever seen below it."""
        return [process for process in [*self._seen.values()] if _is_alive(process)]

    def find(self, name: str) -> list[psutil.Process]:
        """Live processes whose command line contains `name`."""
        found: list[psutil.Process] = []
        for process in self.processes():
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for(self, text: str, timeout_s: float = 240.0) -> None:
        """Waits until the output has the text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.out:
            assert self._process.poll() is None, f"it ended before {text!r}:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{self.out}\n{self.err}"
            time.sleep(_POLL_S)

    def wait_for_process(self, name: str, timeout_s: float = 120.0) -> psutil.Process:
        """Waits until there is a process whose command line contains `name`."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.find(name)):
            assert self._process.poll() is None, f"it ended before it started {name!r}:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"no process {name!r} within {timeout_s} s"
            time.sleep(_POLL_S)
        return found[0]

    def press_ctrl_c(self) -> None:
        """SIGINT to the whole process group, as a terminal sends it."""
        os.killpg(self._process.pid, signal.SIGINT)

    def send(self, sign: signal.Signals) -> None:
        """A signal to the driver alone."""
        self._process.send_signal(sign)

    def end(self, timeout_s: float = 300.0) -> int:
        """Waits for the driver's end; returns its exit code."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"it did not end within {timeout_s} s:\n{self.out}\n{self.err}") from error

    def left_after(self, seconds: float) -> list[str]:
        """Command lines of the processes that are still there `seconds` after now."""
        deadline = time.monotonic() + seconds
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return [_described(process) for process in alive]

    def clean_up(self) -> None:
        """Ends whatever is left. For the end of a test, good or bad."""
        self._is_watched = False
        self._watcher.join()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def _watch(self) -> None:
        with suppress(psutil.Error):
            driver = psutil.Process(self._process.pid)
            self._seen[driver.pid] = driver
            while self._is_watched:
                # A process whose parent has ended is found through itself.
                for known in self.processes():
                    with suppress(psutil.Error):
                        for process in known.children(recursive=True):
                            self._seen.setdefault(process.pid, process)
                time.sleep(_POLL_S)


def recipe(name: str, *words: str | Path | int) -> list[str]:
    """The command line of a recipe with its tiny preset."""
    preset = {"grpo": "tiny_math", "sft": "tiny_sft"}[name]
    return [sys.executable, "-m", f"recipes.{name}", "--preset", preset, *map(str, words)]


def resume_command(err: str) -> list[str]:
    """The command that a run printed on its end."""
    (line,) = (line for line in err.splitlines() if "--resume" in line)
    words = shlex.split(line.partition("with: ")[2])
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _described(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    return str(process.pid)
