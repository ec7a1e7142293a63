"""Worker processes that die or hang. They run functions of the standard library, which they need not import."""

import os
import signal
import time
from collections import deque
from functools import partial
from operator import attrgetter

import pytest

from rl_data import DataError, RLDataError
from rl_data.ahead import Ahead


def test_a_worker_that_dies_is_named_with_what_it_wrote_last():
    make = partial(attrgetter, "real")
    workers = Ahead[object, object](make, 2, deadline_s=60.0, describe=str)
    workers.submit([1, "text", 3, 4])
    assert workers.take() == 1
    with pytest.raises(RLDataError, match=r"data worker 2 of 2 .* died with exit status 1; it wrote last: Attribute"):
        workers.take()
    with pytest.raises(RLDataError, match="data worker 2 of 2"):
        workers.take()  # nothing is passed over
    assert not workers.forget()
    workers.close()


def test_what_cannot_be_pickled_is_refused_before_a_process_starts():
    with pytest.raises(DataError, match=r"the tokenizer: .*lambda.*; --num-data-workers 0 \(num_data_workers\)"):
        Ahead[int, int](lambda: abs, 2, deadline_s=60.0, describe=str)


def test_a_worker_that_hangs_is_named_with_what_it_was_doing():
    make = partial(partial, time.sleep)
    workers = Ahead[int, None](make, 2, deadline_s=60.0, describe=lambda seconds: f"a nap of {seconds} s")
    workers.submit([0, 0, 60])
    workers.take()
    workers.take()
    workers._deadline_s = 1.0  # the start of two interpreters may take longer on a busy machine
    with pytest.raises(
        RLDataError, match=r"worker 1 of 2 \(process \d+\): no result within 1 s .* from a nap of 60 s; it is in File"
    ):
        workers.take()
    assert not workers._workers[0].is_running()  # an answer that came late would be taken for the next one
    with pytest.raises(RLDataError, match=r"worker 1 of 2 .* from a nap of 60 s; it is in File"):
        workers.take()
    stopped = workers._workers[1]
    os.kill(stopped.pid, signal.SIGSTOP)
    workers.submit([0] * 100_000)  # more than a pipe takes: nothing waits for one who does not read
    workers._calls = deque(call for call in workers._calls if call.worker is stopped)
    with pytest.raises(RLDataError, match=r"worker 2 of 2 .*no result within 1 s .*; it does not say where it is"):
        workers.take()
    workers.close()
    assert not any(worker.is_running() for worker in workers._workers)
