"""GRPO: draw groups of samples, grade them, train on their advantages, publish the new weights."""

from recipes.grpo.config import read_job
from recipes.grpo.main import run

__all__ = ["read_job", "run"]
