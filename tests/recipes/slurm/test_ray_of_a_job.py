"""A job's Ray cluster that cannot be had: which node is missing, and that nothing of it stays."""

import socket
import time

import pytest

from tests.recipes.slurm.batch import NODES
from tests.recipes.slurm.conftest import NUMBERS

START = """
set -euo pipefail
if [ "$SLURM_RESTART_COUNT" -gt 0 ]; then exit 0; fi
cd "$SLURM_SUBMIT_DIR"
mkdir -p "$LOGS"
source recipes/slurm/job.sh
find_resume "$RUN_DIR"
start_ray
"""


@pytest.fixture
def start_ray(submit, tmp_path):
    """Submits a job that starts its Ray and ends."""
    script = tmp_path / "start.slurm"
    script.write_text(START)
    return lambda broken, **settings: submit(script, FAKE_SLURM_BROKEN=broken, **settings)


def test_a_port_in_use_is_passed_over_and_a_node_that_does_not_join_is_named(start_ray, tmp_path):
    number = next(NUMBERS)
    port = 20000 + number % 6000 * 2
    not_ray = f"python -m http.server {port + 2} --bind {NODES[0]}"
    with socket.create_server((NODES[0], port)):
        job = start_ray(f"{NODES[0]}={not_ray}", RAY_JOIN_S="3", number=number)
        assert job.end() == 1
    assert f"port {port} or {port + 1} of {NODES[0]} is in use" in job.output
    late = f"node {NODES[0]} ({NODES[0]}) has not joined Ray's head at {NODES[0]}:{port + 2} within 3 s (RAY_JOIN_S)"
    assert f"{late}: see {tmp_path / 'logs' / f'ray-{number}-{NODES[0]}.log'}" in job.output
    assert "Alarm clock" not in job.output
    assert job.left == []


def test_a_node_on_which_ray_ends_is_named_at_once(start_ray, tmp_path):
    job = start_ray(f"{NODES[0]}=false")
    assert job.end() == 1
    log = tmp_path / "logs" / f"ray-{job.number}-{NODES[0]}.log"
    assert f"Ray ended on node {NODES[0]} before the cluster was complete: see {log}" in job.output


def test_a_job_that_is_warned_of_its_limit_while_ray_starts_is_requeued(start_ray, tmp_path):
    job = start_ray(f"{NODES[0]}=sleep 600")
    log = tmp_path / "logs" / f"ray-{job.number}-{NODES[0]}.log"
    while not log.exists():
        time.sleep(0.1)
    job.warn_of_time_limit()
    assert job.end() == 0
    assert job.num_starts == 2
    assert "SIGTERM before the recipe started" in job.output
