import json
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.record import Record, command_line, commit, keep, measured, read

RECORD = Record(
    name="sync_seconds", value=0.1, unit="s", card="NVIDIA H200", date="2026-01-31", command="python x", commit="abc"
)


def test_records_are_kept_newest_first_and_never_twice(tmp_path):
    newer = replace(RECORD, value=0.09)
    for record in (RECORD, newer, RECORD):
        file = keep(record, tmp_path / "results")
    assert file.name == "sync_seconds.json"
    assert read(file) == [RECORD, newer]


def test_a_kept_record_has_the_seven_keys(tmp_path):
    (one,) = json.loads(keep(RECORD, tmp_path).read_text())
    assert sorted(one) == ["card", "command", "commit", "date", "name", "unit", "value"]


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    file = tmp_path / "sync_seconds.json"
    file.write_text('[{"name": "sync_seconds"}]')
    with pytest.raises(ValueError, match=r"sync_seconds\.json: expected a list of records"):
        read(file)


def test_a_record_describes_this_process(monkeypatch):
    monkeypatch.setenv("RL_COMMIT", "0123456789")
    record = measured("sync_seconds", 0.123456789, "s")
    assert (record.value, record.commit) == (0.12346, "0123456789")
    assert record.card
    assert record.command == command_line()


def test_the_command_hides_folders_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = [
        "/opt/bin/python",
        "-m",
        "bench.x",
        "--model",
        "/elsewhere/models/qwen",
        f"--x={tmp_path}/y",
        "8",
        "--out",
        "/z",
    ]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert command_line() == "python -m bench.x --model qwen --x=y 8"


def test_the_commit_is_that_of_the_checkout(monkeypatch):
    monkeypatch.delenv("RL_COMMIT", raising=False)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("no git checkout")
    assert head.stdout.startswith(commit().removesuffix("+changes"))
