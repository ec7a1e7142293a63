"""Small Qwen3 models and data sets, made on the spot, for runs that need no download."""

from recipes.toy.files import make_conversations, make_problems
from recipes.toy.model import make_model, make_tiny_model

__all__ = ["make_conversations", "make_model", "make_problems", "make_tiny_model"]
