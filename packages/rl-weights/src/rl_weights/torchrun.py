"""What torchrun says of this process.

Schedulers set RANK and WORLD_SIZE too, for processes that torchrun did not start.
"""

import os


def is_under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_rank() -> bool:
    """Whether this is torchrun's rank 0, or a process that torchrun did not start."""
    return not is_under_torchrun() or os.environ["RANK"] == "0"


def is_alone() -> bool:
    """Whether torchrun started no other process beside this one."""
    return not is_under_torchrun() or os.environ["WORLD_SIZE"] == "1"
