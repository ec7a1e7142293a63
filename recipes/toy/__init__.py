"""A tiny Qwen3 and small data sets, made on the spot, for runs that need no download."""

from recipes.toy.arithmetic import make_conversations, make_problems
from recipes.toy.model import make_tiny_model

__all__ = ["make_conversations", "make_problems", "make_tiny_model"]
