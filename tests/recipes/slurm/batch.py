"""A batch file run as SLURM runs it, on nodes that are addresses of this machine's loopback range."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
NODES = ("127.0.0.2", "127.0.0.3")
"""Not 127.0.0.1, which Ray replaces by the machine's outward address where a cluster has several nodes."""
_POLL_S = 0.1
_GONE_WITHIN_S = 10.0


class Job:
    """One job: its script is started again for as long as it asks to be requeued.

    Args:
        script: the batch file.
        words: what follows its name on sbatch's command line.
        nodes: names of its nodes.
        settings: the script's own variables, as in the environment of sbatch.
        folder: for its output.
        number: its id.
    """

    def __init__(
        self,
        script: Path,
        words: Sequence[str | Path | int],
        *,
        nodes: Sequence[str],
        settings: Mapping[str, str | Path],
        folder: Path,
        number: int,
    ) -> None:
        self._command = ["bash", str(script), *map(str, words)]
        self._output, self._requeued = folder / "job.log", folder / "requeued"
        self._environment = {
            **os.environ,
            "PATH": f"{Path(__file__).parent / 'bin'}:{os.environ['PATH']}",
            "FAKE_SLURM_REQUEUED": str(self._requeued),
            "SLURM_JOB_ID": str(number),
            "SLURM_JOB_NUM_NODES": str(len(nodes)),
            "SLURM_JOB_NODELIST": ",".join(nodes),
            "SLURM_SUBMIT_DIR": str(ROOT),
            # Ranks on several nodes choose their own interface, which here is the only one that leads to both.
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            **{name: str(value) for name, value in settings.items()},
        }
        self.number = number
        self.num_starts = 0
        self.left: list[str] = []
        """Names of the processes that the script left to SLURM when it ended last."""
        self._start()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str, timeout_s: float = 240.0) -> None:
        """Waits until the output has the text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            assert self._process.poll() is None, f"it ended before {text!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{self.output}"
            time.sleep(_POLL_S)

    def add_words(self, *words: str) -> None:
        """Puts more words onto the command line that the script is started with the next time."""
        self._command += words

    def warn_of_time_limit(self) -> None:
        """SIGTERM to the script alone, as `--signal=B:TERM@SECONDS` asks for."""
        self._process.send_signal(signal.SIGTERM)

    def end(self, timeout_s: float = 300.0) -> int:
        """Waits for the script, takes its steps down as SLURM does, and starts it anew if it was requeued."""
        while True:
            code = self._process.wait(timeout_s)
            self.left = [process.name() for process in self._processes()]
            self._take_down()
            if not self._requeued.exists():
                return code
            self._requeued.unlink()
            self._start()

    def clean_up(self) -> None:
        """Ends whatever is left."""
        self._take_down()

    def _start(self) -> None:
        environment = {**self._environment, "SLURM_RESTART_COUNT": str(self.num_starts)}
        with self._output.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, cwd="/", env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.num_starts += 1

    def _take_down(self) -> None:
        """SIGTERM, and SIGKILL a little later, to every process that has this job's number in its environment."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        for sign in (signal.SIGTERM, signal.SIGKILL):
            while left := self._processes():
                for process in left:
                    with suppress(psutil.Error):
                        process.send_signal(sign)
                time.sleep(_POLL_S)
                if sign == signal.SIGTERM and time.monotonic() > deadline:
                    break

    def _processes(self) -> list[psutil.Process]:
        mark = ("SLURM_JOB_ID", self._environment["SLURM_JOB_ID"])
        return [process for process in psutil.process_iter() if _has(process, *mark)]


def _has(process: psutil.Process, name: str, value: str) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value
    return False
