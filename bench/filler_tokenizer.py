"""A tokenizer for random weights: small, but with a text for every id that a model of any vocabulary can draw."""

import json
from pathlib import Path

from recipes.toy.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, TURN_END, VOCAB_SIZE, save_tokenizer

PAD_ID, EOS_ID = SPECIAL_TOKENS.index(END_OF_TEXT), SPECIAL_TOKENS.index(TURN_END)
ANSWERS = ("0", "1")
"""What random responses answer, each about half the time: labels for prompts whose rewards shall differ."""
_SEED = 0
_IDS_PER_ANSWER = 8
# How a byte-level tokenizer writes a line break and a blank.
_BREAK, _BLANK = "\u010a", "\u0120"


def save_filler_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes the toy recipes' tokenizer, filled up to `vocab_size` with tokens that no text is encoded to.

    Every eighth of the fillers spells an answer, 0 or 1, so that random responses are graded differently and GRPO has
    something to learn from.

    Raises:
        ValueError: if `vocab_size` is smaller than the toy tokenizer.
    """
    if vocab_size < VOCAB_SIZE:
        raise ValueError(f"vocab_size {vocab_size}: expected at least the {VOCAB_SIZE} of the tokenizer")
    save_tokenizer(folder, _SEED)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {_filler(token_id): token_id for token_id in range(VOCAB_SIZE, vocab_size)}
    file.write_text(json.dumps(content))


def _filler(token_id: int) -> str:
    # No merge leads to it: digits are tokens of their own.
    name = f"<{token_id}>"
    if token_id % _IDS_PER_ANSWER:
        return name
    answer = ANSWERS[token_id // _IDS_PER_ANSWER % len(ANSWERS)]
    return f"{_BREAK}Answer:{_BLANK}{answer}{_BREAK}{name}"
