"""Jobs of the batch files, and of scripts that a test writes."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recipes.slurm.batch import NODES, ROOT, Job

TEMPLATES = ROOT / "recipes" / "slurm"
# Of their own for each process of tests, since a job's ports follow from its number.
NUMBERS = itertools.count(100 * os.getpid())


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Submits a batch file: one of the templates by its name, or any by its path."""
    jobs: list[Job] = []

    def submit_one(name, words=(), *, nodes=NODES[:1], number=None, **settings) -> Job:
        paths = {"VENV": Path(sys.prefix), "LOGS": tmp_path / "logs", "RUN_DIR": tmp_path / "run"}
        settings = {**paths, **settings}
        script = TEMPLATES / name
        number = next(NUMBERS) if number is None else number
        jobs.append(Job(script, words, nodes=nodes, settings=settings, folder=tmp_path, number=number))
        return jobs[-1]

    yield submit_one
    for job in jobs:
        job.clean_up()
