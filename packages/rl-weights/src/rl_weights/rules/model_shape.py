"""The sizes of a model, read from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass

from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder with grouped-query attention and a gated feed-forward part."""

    num_layers: int
    hidden: int
    ffn: int
    num_heads: int
    num_groups: int
    """Key/value heads."""
    head_dim: int
    vocab: int
    padded_vocab: int
    """Rows that Megatron's embedding has."""
    is_tied: bool
    """Whether the output layer is the embedding."""
    has_attention_bias: bool

    @classmethod
    def of(cls, config: Mapping[str, JsonValue], *, vocab_multiple: int) -> "ModelShape":
        """The sizes that config.json gives.

        Args:
            config: content of config.json.
            vocab_multiple: what the padded vocabulary size is a multiple of.

        Raises:
            CheckpointError: naming the key that is missing, of another type, or in contradiction to another.
        """
        if vocab_multiple < 1:
            raise CheckpointError(f"vocabulary padding: expected a multiple of at least 1, got {vocab_multiple}")
        hidden, num_heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
        num_groups = _positive(config, "num_key_value_heads", default=num_heads)
        if num_heads % num_groups:
            raise CheckpointError(
                f"config.json: num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_groups}"
            )
        vocab = _positive(config, "vocab_size")
        return cls(
            num_layers=_positive(config, "num_hidden_layers"),
            hidden=hidden,
            ffn=_positive(config, "intermediate_size"),
            num_heads=num_heads,
            num_groups=num_groups,
            head_dim=_positive(config, "head_dim", default=hidden // num_heads),
            vocab=vocab,
            padded_vocab=-(-vocab // vocab_multiple) * vocab_multiple,
            is_tied=_flag(config, "tie_word_embeddings"),
            has_attention_bias=_flag(config, "attention_bias"),
        )


def _positive(config: Mapping[str, JsonValue], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {key}: expected a positive integer, got {value!r}")
    return value


def _flag(config: Mapping[str, JsonValue], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key}: expected true or false, got {value!r}")
    return value
