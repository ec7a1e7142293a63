"""Where a local cluster's files are, and which processes its watchdog takes for the cluster's."""

import socket
import subprocess
import sys
import tempfile

import pytest

from recipes.cluster import _short_folder, ray_cluster
from recipes.cluster_nodes import why_unreachable
from recipes.cluster_watchdog import processes_of
from recipes.errors import UsageError


def test_an_address_where_no_cluster_answers_is_an_error_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UsageError, match=r"RAY_ADDRESS 127\.0\.0\.1:1: no Ray cluster answers there: .*refused"):
        ray_cluster(num_actors=1).__enter__()


def test_something_else_that_listens_at_an_address_is_told_from_a_cluster_in_time():
    with socket.create_server(("127.0.0.1", 0)) as other:
        seen = why_unreachable(f"127.0.0.1:{other.getsockname()[1]}", timeout_s=3)
    assert seen == "no node of a Ray cluster answered within 3 s"


def test_files_are_in_the_folder_of_temporary_files_unless_a_sockets_path_would_be_too_long(monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert _short_folder() == "/var/tmp"
    long = "/var/tmp/of/a/job/whose/name/is/long"
    monkeypatch.setattr(tempfile, "tempdir", long)
    assert _short_folder() == "/tmp"
    assert f"TMPDIR {long}: too long" in caplog.text


def test_only_this_python_and_only_if_it_writes_below_the_folder_is_taken_for_the_clusters(tmp_path):
    log = tmp_path / "raylet.err"
    log.touch()
    waits = "import sys; file = open(sys.argv[1], sys.argv[2]); print(flush=True); sys.stdin.read()"

    def start(*words: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with (
        start(sys.executable, "-c", waits, str(log), "a") as writer,
        start(sys.executable, "-c", waits, str(log), "r") as reader,
        start("tee", "-a", str(log)) as other,
    ):
        for process in (writer, reader):
            assert process.stdout is not None
            process.stdout.readline()
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"\n")
        other.stdin.flush()
        other.stdout.readline()
        assert processes_of(tmp_path) == [writer.pid]
