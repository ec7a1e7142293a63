from pathlib import Path

import pytest

from rl_train.errors import HostMemoryError, TrainConfigError
from rl_train.megatron.host_memory import available_bytes, require_host_memory, resident_bytes


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       1000 kB\nMemAvailable:    300 kB\n")
    return file


def test_a_machine_without_a_limit_has_what_the_kernel_calls_available(meminfo: Path, tmp_path: Path) -> None:
    assert available_bytes(meminfo, tmp_path) == 300 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("12\n")
    (tmp_path / "memory.stat").write_text("anon 12\n")
    assert available_bytes(meminfo, tmp_path) == 300 * 1024


def test_a_container_has_no_more_than_its_limit_leaves(meminfo: Path, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    # Of which 300 hold files that can be read again.
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 200\nactive_file 100\nworkingset 3\n")
    assert available_bytes(meminfo, tmp_path) == 4300


def test_too_little_host_memory_is_an_error_with_both_numbers() -> None:
    require_host_memory(1, "a test")
    with pytest.raises(HostMemoryError, match=r"a test needs 1048576.0 GiB of host memory, .* GiB are free") as caught:
        require_host_memory(2**50, "a test")
    assert isinstance(caught.value, TrainConfigError)


def test_this_process_holds_some_memory() -> None:
    assert 2**20 < resident_bytes() < 2**40
