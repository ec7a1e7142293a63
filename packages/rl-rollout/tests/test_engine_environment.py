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


def test_an_engine_keeps_to_loopback_unless_its_weights_come_from_elsewhere_or_its_user_chose(monkeypatch):
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    assert [host_environment({"tp_size": 2}, 1).get(name) for name in names] == ["lo", "lo"]
    assert [host_environment({}, 1, has_remote_writer=True).get(name) for name in names] == ["lo", None]
    assert [host_environment({"nnodes": 2}, 1).get(name) for name in names] == [None, None]
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    assert "NCCL_SOCKET_IFNAME" not in host_environment({}, 1)
