"""Who can reach a run: its sockets, its Ray cluster and its temporary files."""

import os
import subprocess
import sys

import psutil

from tests.recipes.running import Run

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def check_that_strangers_are_kept_out(run: Run) -> None:
    """Checks that a running run can be reached by its user alone.

    Every socket of it is on loopback, its cluster asks for a token, and its temporary files are closed to others.

    Raises:
        AssertionError: if not.
    """
    addresses = {process: _listening(process) for process in run.processes()}
    outside = {p.name(): found for p, found in addresses.items() if {one.ip for one in found} - LOOPBACK}
    assert outside == {}

    (gcs,) = run.find("gcs_server")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_AUTH_TOKEN", None)
    port = addresses[gcs][0].port
    program = f"from ray._raylet import GcsClient; GcsClient(address='127.0.0.1:{port}').internal_kv_keys(b'')"
    stranger = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert stranger.returncode != 0
    assert "InvalidAuthToken" in stranger.stderr

    (folder,) = run.tmp.glob("rl-*")
    assert folder.stat().st_mode & 0o077 == 0


def _listening(process: psutil.Process) -> list:
    """Addresses on which the process waits for connections."""
    try:
        return [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []
