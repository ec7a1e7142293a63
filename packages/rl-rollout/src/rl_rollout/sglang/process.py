"""The caller's side of an engine's host process: start it, call it with a deadline, notice its death, end it."""

import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

import msgspec

from rl_rollout.errors import EngineError, RequestError
from rl_rollout.sglang.messages import Answer, Call, Channel, Failure, FromHost, Ready, Task

logger = logging.getLogger(__name__)

_LOG_LINES_IN_ERRORS = 40
_DEATH_WAIT_S = 10.0


class HostProcess:
    """A running `rl_rollout.sglang.host` and the calls that wait for its answers.

    A thread of this process waits for answers and completes the futures, so callers may be threads or event loops.

    Args:
        name: how messages call the engine.
        server_args: SGLang's server arguments, as JSON values.
        environment: variables that the process gets beside those of this one.
    """

    def __init__(self, name: str, server_args: Mapping[str, object], environment: Mapping[str, str]) -> None:
        self._name = name
        self._folder = Path(tempfile.mkdtemp(prefix="rl-engine-"))
        self._log_path = self._folder / "log.txt"
        self._waiting: dict[int, Future[Answer]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._death: str | None = None
        self.ready: Future[Ready] = Future()
        ours, theirs = socket.socketpair()
        rendezvous = {"SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": f"file://{self._folder}/rendezvous"}
        with self._log_path.open("wb") as log, theirs:
            arguments = [str(theirs.fileno()), json.dumps(dict(server_args)), str(self._folder)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rl_rollout.sglang.host", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **rendezvous, **environment},
                start_new_session=True,  # Ctrl-C reaches the caller, who decides
            )
        self._channel = Channel(ours)
        self._finalizer = weakref.finalize(self, _end, self._channel, self._process, self._folder)
        threading.Thread(target=_receive, args=(weakref.ref(self), self._channel), daemon=True).start()

    @property
    def folder(self) -> Path:
        """A folder for files of this engine, which goes when its process does."""
        return self._folder

    def call(self, task: Task, descriptor: int | None = None) -> tuple[int, "Future[Answer]"]:
        """Sends the task; the future ends with the answer or the engine's error.

        Raises:
            EngineError: if the process is dead.
        """
        future: Future[Answer] = Future()
        with self._lock:
            if self._death is not None:
                raise EngineError(self._death)
            call_id = next(self._numbers)
            self._waiting[call_id] = future
        try:
            self._channel.send(Call(call_id, task), descriptor)
        except OSError:
            self.bury()  # the receiving thread may not have noticed yet
        return call_id, future

    def require_life(self) -> None:
        """Does nothing while the process lives.

        Raises:
            EngineError: if it is dead or was closed.
        """
        with self._lock:
            if self._death is not None:
                raise EngineError(self._death)

    def forget(self, call_id: int) -> None:
        """Stops waiting for a call; its answer, if one comes, is dropped."""
        with self._lock:
            self._waiting.pop(call_id, None)

    def deliver(self, message: FromHost) -> None:
        """Completes what waits for the message."""
        if isinstance(message, Ready):
            self.ready.set_result(message)
            return
        with self._lock:
            future = self._waiting.pop(message.call_id, None)
        if future is None:
            return
        if isinstance(message, Answer):
            future.set_result(message)
        else:
            kind = RequestError if message.is_request_error else EngineError
            future.set_exception(kind(f"{self._name}: {message.message}"))

    def bury(self) -> None:
        """Ends what is left of the process and fails everything that waits for it."""
        with self._lock:
            if self._death is not None:
                return
            self._death = self._describe_death()
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in [*waiting, self.ready]:
            if not future.done():
                future.set_exception(EngineError(self._death))

    def _describe_death(self) -> str:
        try:
            code = self._process.wait(_DEATH_WAIT_S)
        except subprocess.TimeoutExpired:
            code = None
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            return f"{self._name}: is closed"
        tail = "\n".join(lines[-_LOG_LINES_IN_ERRORS:])
        return f"{self._name}: its process ended (exit code {code}). The end of its log:\n{tail}"

    def close(self) -> None:
        """Ends the process and all that it started; later calls raise EngineError. May be called twice."""
        with self._lock:
            if self._death is None:
                self._death = f"{self._name}: is closed"
            waiting, self._waiting = list(self._waiting.values()), {}
        self._finalizer()
        for future in [*waiting, self.ready]:
            if not future.done():
                future.set_exception(EngineError(self._death))


def _receive(host_ref: "weakref.ref[HostProcess]", channel: Channel) -> None:
    """Hands messages to the host object while it lives; holds it weakly, so that it can be collected."""
    decoder: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(Ready | Answer | Failure)
    while frame := channel.receive():
        if (host := host_ref()) is None:
            return
        host.deliver(decoder.decode(frame.body))
        del host
    if (host := host_ref()) is not None:
        host.bury()


def _end(channel: Channel, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Kills the process group; the group's id stays ours until the process is waited for."""
    channel.close()
    if process.returncode is None:
        _kill_group(process.pid)
    process.wait()
    give_up_at = time.monotonic() + _DEATH_WAIT_S
    while _kill_group(process.pid) and time.monotonic() < give_up_at:
        time.sleep(0.01)  # children that were killed but not yet reaped by their new parent
    shutil.rmtree(folder, ignore_errors=True)


def _kill_group(group: int) -> bool:
    """Whether there was anything to kill."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
