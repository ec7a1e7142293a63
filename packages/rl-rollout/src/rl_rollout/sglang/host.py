"""The process that holds a SGLang engine: `python -m rl_rollout.sglang.host`, started by `SGLangEngine`.

It exists so that SGLang's ways with its own process (it kills every child process on shutdown, and kills the whole tree
by SIGQUIT when a scheduler dies) cannot reach the caller's process. It ends, with all its children, when the caller's
end of the socket pair closes.
"""

import contextlib
import importlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue

from rl_rollout.sglang.cpu_platform import cpu_environment, cpu_server_args
from rl_rollout.sglang.light_imports import (
    collecting_later,
    leave_out_other_models,
    light_imports_on_cpu,
    quick_distributions,
)
from rl_rollout.sglang.messages import Channel, Frame

logger = logging.getLogger(__name__)


def main() -> None:
    """Serves one engine. Arguments: descriptor of the socket, SGLang's server arguments as JSON, the log's folder."""
    descriptor, server_args, folder = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    end = socket.socket(fileno=descriptor)
    channel = Channel(end)
    os.register_at_fork(after_in_child=end.close)
    frames: SimpleQueue[Frame] = SimpleQueue()
    threading.Thread(target=_receive, args=(channel, frames, folder), name="receive", daemon=True).start()
    started = time.perf_counter()
    leave_out_other_models(server_args)
    with collecting_later(), quick_distributions():
        import torch

        is_cpu = not torch.cuda.is_available()
        if is_cpu:
            server_args = cpu_server_args(server_args)
            os.environ.update(cpu_environment(server_args))
            with light_imports_on_cpu():
                # Part of it is imported by the scheduler, which is forked from this process: then it need not.
                importlib.import_module("sglang.srt.model_executor.model_runner")
        from rl_rollout.sglang.served_engine import ServedEngine
    imported_s = time.perf_counter() - started
    ServedEngine(server_args, channel, frames, is_cpu=is_cpu, imported_s=imported_s).run()


def _receive(channel: Channel, frames: "SimpleQueue[Frame]", folder: str) -> None:
    """Feeds the queue; ends the whole process group when the caller is gone, whatever the main thread is doing."""
    while frame := channel.receive():
        frames.put(frame)
    shutil.rmtree(folder, ignore_errors=True)  # a caller that was killed cannot
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
