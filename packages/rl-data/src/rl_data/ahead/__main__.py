"""A worker process: `python -m rl_data.ahead`. It ends when its input does, and so with its parent.

It reads one frame that makes a function, then frames with a list of arguments, and answers each with a list of results.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, cast

from rl_data.ahead.frames import loads, read_body, write_frame


def main() -> None:
    """Answers until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal group; the parent decides
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
            write_frame(output, [work(argument) for argument in loads(body)])


if __name__ == "__main__":
    main()
