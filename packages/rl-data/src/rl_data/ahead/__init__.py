"""Work done ahead, in order, by worker processes."""

from rl_data.ahead.workers import Ahead

__all__ = ["Ahead"]
