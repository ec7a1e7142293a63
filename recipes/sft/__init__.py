"""SFT: train on conversations, on the tokens that the assistant wrote."""

from recipes.sft.config import read_job
from recipes.sft.main import run

__all__ = ["read_job", "run"]
