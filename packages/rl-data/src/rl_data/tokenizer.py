"""Tokenizers: what this package asks of one, and how one is loaded from a local folder."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from rl_data.errors import DataError
from rl_data.json import JsonValue
from rl_data.rows.unfinished import check_finished

# What AutoTokenizer takes for a model type and the `tokenizer_class` of tokenizer_config.json, where that is plain.
# Importing AutoTokenizer itself imports transformers' generation, with the most of its seconds.
_QWEN = "transformers.models.qwen2.tokenization_qwen2", "Qwen2Tokenizer"
_BACKEND = "transformers.tokenization_utils_tokenizers", "TokenizersBackend"
_CLASSES = {
    **{(model_type, "Qwen2Tokenizer"): _QWEN for model_type in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")},
    ("qwen3", "TokenizersBackend"): _BACKEND,
    ("qwen3_moe", "TokenizersBackend"): _BACKEND,
}


class AddedToken(Protocol):
    """A token that stands outside the trained vocabulary."""

    @property
    def content(self) -> str:
        """Its text."""
        ...

    @property
    def special(self) -> bool:
        """Whether decoding may leave it out."""
        ...


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source of the template; None where the model has none."""
        ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Added tokens by id."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text that token ids stand for."""
        ...

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        **template_arguments: Any,
    ) -> Any:
        """The conversation as text, where `tokenize` is False. Further arguments are variables of the template."""
        ...


def load_tokenizer(path: str | Path, *, needs_chat_template: bool = False) -> Tokenizer:
    """The tokenizer of a model folder. Nothing is fetched from a network and no code of the folder runs.

    The first call takes some seconds, for it imports transformers.

    Raises:
        DataError: if the folder or its tokenizer is missing or damaged, or has no chat template where one is needed; if
            a download of the model was not finished.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"{folder}: expected a folder with a tokenizer, found {'a file' if folder.exists() else 'nothing'}"
        )
    check_finished(folder, lambda missing: missing.parent == folder.resolve())
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        present = sorted(entry.name for entry in folder.iterdir())[:10]
        raise DataError(f"{folder}: expected tokenizer.json or tokenizer_config.json, found {present}")
    try:
        tokenizer = _tokenizer_class(folder).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    if needs_chat_template:
        require_chat_template(cast(Tokenizer, tokenizer), where=str(folder))
    return cast(Tokenizer, tokenizer)


def _tokenizer_class(folder: Path) -> Any:
    """The class that reads the folder: the one that AutoTokenizer would take, or AutoTokenizer."""
    # Imported here: it takes seconds and loads torch where torch is installed.
    names: list[str] = []
    for file, key in (("config.json", "model_type"), ("tokenizer_config.json", "tokenizer_class")):
        try:
            values: JsonValue = json.loads((folder / file).read_bytes())
        except (OSError, ValueError):  # AutoTokenizer says what is wrong with it, or does without
            values = None
        name = values.get(key) if isinstance(values, Mapping) and "auto_map" not in values else None
        names.append(name if isinstance(name, str) else "")
    if found := _CLASSES.get((names[0], names[1].removesuffix("Fast"))):
        module, class_name = found
        return getattr(importlib.import_module(module), class_name)
    from transformers import AutoTokenizer

    return AutoTokenizer


def require_chat_template(tokenizer: Tokenizer, *, where: str) -> None:
    """Does nothing if the tokenizer has a chat template.

    Raises:
        DataError: if it has none; `where` begins the message.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"{where}: the tokenizer has no chat template; expected `chat_template` in tokenizer_config.json "
            "or a file chat_template.jinja beside it"
        )
