"""The model's tokenizer, for a recipe that is about to start."""

from pathlib import Path

from recipes.light_transformers import light_transformers
from rl_data import Tokenizer, load_tokenizer


def open_tokenizer(model: Path) -> Tokenizer:
    """See `rl_data.load_tokenizer`, of whose seconds transformers takes the most."""
    with light_transformers():
        return load_tokenizer(model)
