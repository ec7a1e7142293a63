"""A worker process: `python -m rl_data.ahead`. It ends when its input does, and so with its parent.

It reads one frame that makes a function, then frames with a list of arguments, and answers each argument with a result.
SIGUSR1 has it write to standard error where it is.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, cast

from rl_data.ahead.frames import dumps, loads, read_body, write_frame


def main() -> None:
    """Answers until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    # What a library prints must not mix with the results.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Tokenizers need no torch, but transformers imports it where it finds it: 2 s and 450 MB in each worker.
    cast("dict[str, object]", sys.modules)["torch"] = None
    with os.fdopen(0, "rb") as source:
        make: bytes | None = read_body(source)
        if make is None:
            return
        work: Callable[[Any], Any] = loads(make)()
        while (body := read_body(source)) is not None:
            for argument in loads(body):
                write_frame(output, dumps(work(argument)))


if __name__ == "__main__":
    main()
