"""Ends what a killed driver leaves of its local Ray cluster; `ray_cluster` starts it: `cluster_watchdog.py FOLDER`.

Most of a cluster ends by itself when its driver is killed. Ray's two agents do not: they notice within 2 s that their
raylet is gone, and then try for 60 s to report it to the GCS server, which is gone too (report_raylet_error_logs in
ray/_private/process_watcher.py; the 60 s cannot be set). And nobody is left to remove the cluster's folder.

It waits for the end of its input, which the driver holds open. A driver that ends its cluster itself ends this last.
Only the standard library is imported: it starts at once, and is beside the run for as long as that lasts.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_GIVE_UP_AFTER_S = 30.0
_POLL_S = 0.1


def main(folder: Path) -> None:
    """Waits for the driver's end, then kills the cluster's processes and removes its folder."""
    sys.stdin.buffer.read()
    give_up_at = time.monotonic() + _GIVE_UP_AFTER_S
    # More than once: the raylet may be starting a worker just now.
    while (left := processes_of(folder)) and time.monotonic() < give_up_at:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes that have a file below the folder open for writing, as every process of Ray has its log.

    Their command lines and environments would not do, for Ray overwrites them. Who only reads a log there, or looks at
    it in an editor, is somebody else: only this Python and Ray's own programs count, of this user.
    """
    found: list[int] = []
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        # A process that ends meanwhile, whose files are gone or empty, or of another user, is not one of ours.
        with suppress(OSError, ValueError):
            descriptors = (process / "fd").iterdir()
            if _may_be_rays(process) and any(_writes_below(folder, descriptor) for descriptor in descriptors):
                found.append(int(process.name))
    return found


def _may_be_rays(process: Path) -> bool:
    program = (process / "exe").readlink()
    is_known = program == Path("/proc/self/exe").readlink() or program.name in ("raylet", "gcs_server")
    return is_known and process.stat().st_uid == os.getuid()


def _writes_below(folder: Path, descriptor: Path) -> bool:
    """Whether /proc/N/fd/M is such a file."""
    if not descriptor.readlink().is_relative_to(folder):
        return False
    lines = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().splitlines()
    (flags,) = (line.split()[1] for line in lines if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
