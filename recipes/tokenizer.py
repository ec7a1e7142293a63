"""The model's tokenizer, without the most of the seconds that transformers takes to load."""

from pathlib import Path

from rl_data import Tokenizer, load_tokenizer
from rl_rollout.sglang.light_imports import collecting_later, hidden, quick_distributions


def open_tokenizer(model: Path) -> Tokenizer:
    """See `rl_data.load_tokenizer`.

    scikit-learn, with SciPy and pandas behind it, is imported by transformers, where it is installed, for one function
    of assisted generation.
    """
    with collecting_later(), quick_distributions(), hidden("sklearn"):
        return load_tokenizer(model)
