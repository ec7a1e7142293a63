"""How much memory this machine's host has left, for what moves there from GPUs.

Reads Linux's own files: importing this imports nothing heavy.
"""

from pathlib import Path

from rl_train.errors import HostMemoryError

GIB = 2**30
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that can be taken without swapping, within the limit of this process's container if it has one."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    machine = int(lines["MemAvailable"].split()[0]) * 1024
    limit_file, used_file, kinds_file = (cgroup / f"memory.{name}" for name in ("max", "current", "stat"))
    if not all(file.is_file() for file in (limit_file, used_file, kinds_file)):
        return machine
    limit = limit_file.read_text().strip()
    if limit == "max":
        return machine
    kinds = dict(line.split() for line in kinds_file.read_text().splitlines())
    # Pages of files that were read are given up when memory is needed.
    used = int(used_file.read_text()) - int(kinds["inactive_file"]) - int(kinds["active_file"])
    return min(machine, int(limit) - used)


def require_host_memory(num_bytes: int, what: str) -> None:
    """Does nothing if that much is free.

    Raises:
        HostMemoryError: saying what it was for.
    """
    if (available := available_bytes()) < num_bytes:
        raise HostMemoryError(
            f"{what} needs {num_bytes / GIB:.1f} GiB of host memory, {available / GIB:.1f} GiB are free"
        )


def resident_bytes() -> int:
    """Memory that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux tells the resident size of every live process")
