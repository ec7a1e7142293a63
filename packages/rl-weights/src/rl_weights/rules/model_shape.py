"""The sizes of a model, read from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass

from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsShape:
    """The sizes of the experts that stand in some layers, or in all, in the place of the feed-forward part."""

    num_experts: int
    ffn: int
    """Of each expert."""
    layers: frozenset[int]
    """Layers that have experts."""


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
    experts: ExpertsShape | None
    """None for a dense model."""

    @classmethod
    def of(
        cls, config: Mapping[str, JsonValue], *, vocab_multiple: int, num_tensors: int | None = None
    ) -> "ModelShape":
        """The sizes that config.json gives.

        Args:
            config: content of config.json.
            vocab_multiple: what the padded vocabulary size is a multiple of.
            num_tensors: how many there are to hold the model; any number if None.

        Raises:
            CheckpointError: naming the key that is missing, of another type, in contradiction to another, or of more
                layers or experts than there are tensors.
        """
        if vocab_multiple < 1:
            raise CheckpointError(f"vocabulary padding: expected a multiple of at least 1, got {vocab_multiple}")
        hidden, num_heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
        num_groups = _positive(config, "num_key_value_heads", default=num_heads)
        if num_heads % num_groups:
            raise CheckpointError(
                f"config.json: num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_groups}"
            )
        for key in ("attention_bias", "mlp_bias"):
            if _flag(config, key):
                raise CheckpointError(f"config.json: {key}: expected false; no rule covers these biases")
        vocab, num_layers = _positive(config, "vocab_size"), _positive(config, "num_hidden_layers")
        _check_count("num_hidden_layers", num_layers, num_tensors)
        return cls(
            num_layers=num_layers,
            hidden=hidden,
            ffn=_positive(config, "intermediate_size"),
            num_heads=num_heads,
            num_groups=num_groups,
            head_dim=_positive(config, "head_dim", default=_default_head_dim(config, hidden // num_heads)),
            vocab=vocab,
            padded_vocab=-(-vocab // vocab_multiple) * vocab_multiple,
            is_tied=_flag(config, "tie_word_embeddings"),
            experts=_experts(config, num_layers, num_tensors),
        )


def _default_head_dim(config: Mapping[str, JsonValue], of_other_families: int) -> int:
    """What a config.json without head_dim means, which transformers' Qwen3, and no other family, says by itself."""
    architectures = config.get("architectures")
    is_qwen3 = isinstance(architectures, list) and "Qwen3ForCausalLM" in architectures
    return 128 if is_qwen3 else of_other_families


def _experts(config: Mapping[str, JsonValue], num_layers: int, num_tensors: int | None) -> ExpertsShape | None:
    key = "num_local_experts" if "num_local_experts" in config else "num_experts"
    if key not in config:
        return None
    step = _positive(config, "decoder_sparse_step", default=1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int and 0 <= layer < num_layers for layer in dense):
        raise CheckpointError(
            f"config.json: mlp_only_layers: expected numbers of layers below {num_layers}, got {dense!r}"
        )
    layers = frozenset(layer for layer in range(num_layers) if (layer + 1) % step == 0 and layer not in dense)
    if not layers:
        return None
    ffn, num_experts = _positive(config, "moe_intermediate_size"), _positive(config, key)
    _check_count(f"{key}, in {len(layers)} layers", num_experts, num_tensors and num_tensors // len(layers))
    return ExpertsShape(num_experts=num_experts, ffn=ffn, layers=layers)


def _check_count(what: str, count: int, most: int | None) -> None:
    """Refuses more than there can be, before a rule is made for each: the number may be anything."""
    if most is not None and count > most:
        raise CheckpointError(f"config.json: {what}: expected at most {most}, for which there are tensors, got {count}")


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
