"""A rank before it has met the others."""

import stat
import tempfile
from pathlib import Path

import pytest

from rl_train.megatron.rank import TrainerRank


def test_ranks_of_one_machine_meet_in_a_folder_that_nobody_else_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo" if name.endswith("IFNAME") else "1")  # a rank sets them for its own process
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rank = TrainerRank(0, 1, num_threads=1)
    place = rank.listen()
    assert isinstance(place, Path)
    assert place.is_relative_to(tmp_path)
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    rank.close_meeting()
    assert not list(tmp_path.iterdir())
