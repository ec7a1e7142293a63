"""Token ids as text for people to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import tokenizers

from recipes.errors import UsageError


class _Decoder(Protocol):
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class TokenTexts:
    """A growing list of the distinct tokens met, so that a page holds the text of each once."""

    def __init__(self, tokenizer_file: Path | None) -> None:
        """Reads a tokenizer.json; without one, tokens are shown by their ids.

        Raises:
            UsageError: if the file is not a tokenizer.
        """
        self.texts: list[str] = []
        self._positions: dict[int, int] = {}
        self._tokenizer: _Decoder | None = _load(tokenizer_file) if tokenizer_file is not None else None

    @property
    def has_tokenizer(self) -> bool:
        """Whether texts are texts, not ids."""
        return self._tokenizer is not None

    def position(self, token_id: int) -> int:
        """Where the token's text stands in `texts`."""
        if token_id not in self._positions:
            self._positions[token_id] = len(self.texts)
            self.texts.append(self.decode([token_id]))
        return self._positions[token_id]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the tokens, special ones included."""
        if self._tokenizer is None:
            return " ".join(f"#{token_id}" for token_id in token_ids)
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)


def _load(file: Path) -> _Decoder:
    try:
        return cast(Any, tokenizers.Tokenizer).from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception, whatever is wrong
        raise UsageError(f"{file}: expected a tokenizer: {error}") from error
