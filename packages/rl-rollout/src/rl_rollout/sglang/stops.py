"""What of a response is no text of it. `matched` is what ended it by SGLang's account: a token, a string or nothing."""

from collections.abc import Sequence


def without_end(tokens: Sequence[int], matched: int | str | None) -> list[int]:
    """The tokens without the one that ended them."""
    return list(tokens[:-1] if isinstance(matched, int) and tokens and tokens[-1] == matched else tokens)


def without_stop_string(text: str, matched: int | str | None) -> str:
    """The text before the string that ended it."""
    return text[: text.rindex(matched)] if isinstance(matched, str) and matched in text else text
