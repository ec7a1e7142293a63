import os
from pathlib import Path

from rl_rollout.sglang.config import host_environment


def test_an_engine_that_gives_memory_up_finds_the_cuda_runtime_before_it_has_loaded_torch(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    *found, known = host_environment({"enable_memory_saver": True}, 1)["LD_LIBRARY_PATH"].split(os.pathsep)
    assert known == "/mine"
    assert all([*Path(folder).glob("libcudart.so.*")] for folder in found)
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert "/mine" not in host_environment({"enable_memory_saver": True}, 1)["LD_LIBRARY_PATH"]


def test_other_engines_keep_their_callers_library_path():
    assert "LD_LIBRARY_PATH" not in host_environment({}, 1)
