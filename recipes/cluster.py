"""The Ray cluster that a recipe runs in: one that is there, or one of its own that ends with it."""

# pyright: standard
# Ray is not typed throughout.

import getpass
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from recipes import cluster_watchdog
from recipes.cluster_nodes import why_unreachable
from recipes.errors import UsageError

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 2 * 2**30
# A socket's path has at most 107 characters, and Ray's sockets lie up to 84 below the folder of temporary files.
_LONGEST_TEMPORARY_FOLDER = 23
_CONNECT_S = 10.0
_JOIN_S = 30
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)

# Read by Ray when it is imported and inherited by every process it starts.
_LOCAL_CLUSTER_ENV = {
    "RAY_AUTH_MODE": "token",
    # Without this Ray replaces 127.0.0.1 by the machine's outward address and listens on every interface
    # (ray/_private/services.py, resolve_ip_for_localhost).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # CUDA_VISIBLE_DEVICES of an actor without GPUs stays as it is.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_cluster(*, num_actors: int) -> Generator[None]:
    """Joins the cluster named by RAY_ADDRESS, or starts a local one for the duration of the block.

    A local cluster listens on the loopback address only and takes calls only with a token made here. Its CPU count is
    the number of actors, whatever the machine has: Ray counts places, not cores. Its GPUs are those that are there.
    Inside another such block nothing is started. It ends with the block, and with this process if that is killed.

    Raises:
        UsageError: if no cluster, or none with a live node, answers at RAY_ADDRESS.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Ray reads its environment when it is imported, so modules that import it are imported inside the block.
        assert "ray" not in sys.modules or "RAY_AUTH_TOKEN" in os.environ, "ray was imported before ray_cluster()"
        os.environ |= _LOCAL_CLUSTER_ENV  # over what the user's shell says: without a token anybody here could run code
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        _check_answers(address)
        if os.environ.get("RAY_AUTH_MODE") != "token":
            logger.warning(
                "RAY_ADDRESS %s: joined without RAY_AUTH_MODE=token; whoever reaches it can run code", address
            )
        try:
            with _putting_off_interrupts():
                ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
            yield
        finally:
            ray.shutdown()
        return
    with _own_folder() as folder:
        try:
            with _putting_off_interrupts(), _temporary_files_in(folder / "tmp"):
                ray.init(
                    num_cpus=num_actors,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    logging_level=logging.WARNING,
                    log_to_driver=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(folder / "ray"),  # which Ray opens to everybody
                )
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Asks there before this process does. Addresses without a port ("auto") are Ray's to resolve.

    Raises:
        UsageError: if there is no cluster.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UsageError(f"RAY_ADDRESS {address}: no Ray cluster answers there: {error}") from error
    if seen := why_unreachable(address, timeout_s=_JOIN_S):
        raise UsageError(
            f"RAY_ADDRESS {address}: something listens there, but {seen}. Expected a cluster of this Ray, with the "
            "token of RAY_AUTH_TOKEN if it asks for one and a live node on this machine; the output of `ray start` "
            "says what became of it"
        )


@contextmanager
def _own_folder() -> Generator[Path]:
    """A folder for a local cluster's files, closed to other users.

    It stays after a failure, for its logs, and goes at every other end. Even if this process is killed: then a process
    of its own removes it, with what is left of the cluster.
    """
    folder = Path(tempfile.mkdtemp(prefix="rl-ray-", dir=_short_folder())).resolve()
    # Isolated, without site-packages: it starts at once. Signals to the group of this process are not for it.
    command = [sys.executable, "-I", "-S", cluster_watchdog.__file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watchdog:
        is_kept = False
        try:
            yield folder
        except Exception:
            is_kept = True
            logger.warning("logs of the failed run's processes: %s", folder)
            raise
        finally:
            if not is_kept:
                shutil.rmtree(folder, ignore_errors=True)
            watchdog.kill()


def _short_folder() -> str:
    """The folder of temporary files, or /tmp where the paths of Ray's sockets would be too long below it."""
    usual = tempfile.gettempdir()
    if len(str(Path(usual).resolve())) <= _LONGEST_TEMPORARY_FOLDER:
        return usual
    logger.warning("TMPDIR %s: too long for the paths of Ray's sockets; the cluster's files are in /tmp", usual)
    return "/tmp"


@contextmanager
def _temporary_files_in(folder: Path) -> Generator[None]:
    """For the start of Ray: its processes and those that they start keep their temporary files there, to go with it.

    But for what torch has compiled, which would have to be compiled again for every run.
    """
    folder.mkdir(mode=0o700)
    compiled = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"  # torch's own default
    chosen = {
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)),
        "TMPDIR": str(folder),
    }
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def gpus_per_actor(*, num_actors: int) -> int:
    """1 where the cluster has GPUs, 0 where everything runs on CPUs. To be called inside `ray_cluster`.

    Args:
        num_actors: those that need a GPU each.

    Raises:
        UsageError: if there are GPUs, but fewer than actors: Ray would wait for more without end.
    """
    import ray

    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if 0 < num_gpus < num_actors:
        raise UsageError(
            f"{num_actors} GPUs are needed, the cluster has {num_gpus}: --actor-num-gpus-per-node says how many train, "
            "--rollout-num-gpus how many generate, and --colocate that they are the same ones"
        )
    return 1 if num_gpus else 0


@contextmanager
def _putting_off_interrupts() -> Generator[None]:
    """For the start of Ray: SIGINT and SIGTERM come after the block, to the handlers that were there before it.

    Half a cluster would leave processes behind, and Ray puts a handler of its own in place, which aborts on SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    handlers = {number: signal.signal(number, lambda sign, _: noted.append(sign)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if noted:
            signal.raise_signal(noted[0])
