"""Whether a run is on GPUs, in words for its user, and whether those that are there can be used at all."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from recipes.errors import UsageError

_ON_CPUS = "to run on CPUs all the same, set CUDA_VISIBLE_DEVICES to nothing"
_ASK_S = 20.0


def where_they_run(
    *, num_ranks: int, num_engines: int, gpus_per_engine: int = 1, has_gpus: bool, is_shared: bool
) -> str:
    """One line about where trainer ranks and engines run."""
    ranks, engines = _count(num_ranks, "trainer rank"), _count(num_engines, "engine")
    who = " and ".join(what for what, number in ((ranks, num_ranks), (engines, num_engines)) if number)
    is_one = num_ranks + num_engines == 1
    if not has_gpus:
        return f"no GPU: {who} {'runs' if is_one else 'run'} on CPUs"
    if is_shared:
        return f"{who} share {_count(max(num_ranks, num_engines * gpus_per_engine), 'GPU')}"
    return f"{who} {'has' if is_one else 'have'} {_count(num_ranks + num_engines * gpus_per_engine, 'GPU')}"


def check_gpus(*, has_gpus: bool, device_folder: Path = Path("/dev")) -> None:
    """Does nothing if this machine has no GPU, or has some and CUDA works on them. A joined cluster is not looked at.

    Args:
        has_gpus: whether Ray found any.
        device_folder: where the driver's devices are.

    Raises:
        UsageError: if the run would be on CPUs though there is a GPU, or on a GPU that torch cannot use.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    if has_gpus:
        import torch  # the recipe needs it next

        if not torch.cuda.is_available():
            raise UsageError(
                f"Ray finds a GPU, but torch {torch.__version__} cannot use it: built for CUDA {torch.version.cuda}, "
                f"which may be newer than the driver; {_ON_CPUS}"
            )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (found := _found(device_folder)):
        raise UsageError(
            f"there is a GPU ({found}), but Ray finds none that it can use: the driver does not answer, or this "
            f"process may not use it (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}); {_ON_CPUS}"
        )


def _found(device_folder: Path) -> str | None:
    """What shows that there is a GPU."""
    devices = sorted(path for path in device_folder.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    if devices:
        return str(devices[0])
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=_ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return f"nvidia-smi: {lines[0]}" if lines else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
