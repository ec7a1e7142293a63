"""How problems are asked, and which of them are held out for evaluation."""

import zlib
from typing import Literal

type Split = Literal["train", "eval"]

QUESTIONS = (
    "What is {}?",
    "Compute {}.",
    "How much is {}?",
)

_EVAL_SHARE_PERCENT = 15


def split_of(text: str) -> Split:
    """The split of the problem with this text: a checksum decides, so no seed moves it."""
    return "eval" if zlib.crc32(text.encode()) % 100 < _EVAL_SHARE_PERCENT else "train"
