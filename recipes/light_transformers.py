"""Loading transformers without most of the seconds that it takes."""

from collections.abc import Generator
from contextlib import contextmanager

from rl_rollout.sglang.light_imports import collecting_later, hidden, quick_distributions


@contextmanager
def light_transformers() -> Generator[None]:
    """For the first import of transformers in a process, which then does without two libraries, if they are installed.

    It imports scikit-learn, with SciPy and pandas behind it, for one function of assisted generation, and torchao for
    quantized checkpoints; recipes have neither.
    """
    with collecting_later(), quick_distributions(), hidden("sklearn", "torchao"):
        yield
