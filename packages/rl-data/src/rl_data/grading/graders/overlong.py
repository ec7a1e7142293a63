"""Soft overlong punishment."""

from rl_data.errors import DataError
from rl_data.grading.grade import Grade, Submission


class OverlongGrader:
    """0 for a response well under the longest length, falling to -1 at the longest; to be added to another grader's.

    With L the longest length, C the buffer and y the response: 0 where |y| <= L - C, -1 where |y| > L, and
    ((L - C) - |y|) / C between. Source: DAPO, Yu et al. 2025, section 3.4, equation 13.

    Args:
        max_tokens: L, in tokens.
        buffer_tokens: C, in tokens.
    """

    def __init__(self, *, max_tokens: int, buffer_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._buffer_tokens = buffer_tokens

    def check(self, submission: Submission) -> None:
        """Any label will do."""

    def grade(self, submission: Submission) -> Grade:
        """A value in [-1, 0]."""
        if submission.num_tokens is None:
            raise DataError("rm-type overlong: expected the number of the response's tokens, got none")
        num_over = submission.num_tokens - (self._max_tokens - self._buffer_tokens)
        value = -min(max(num_over / self._buffer_tokens, 0.0), 1.0)
        return Grade(value=value + 0.0, reason=f"{submission.num_tokens} tokens of at most {self._max_tokens}")

    def start(self) -> None:
        """Nothing has to start."""

    def close(self) -> None:
        """Nothing is held."""
