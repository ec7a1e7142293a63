"""A model's shape in Megatron's terms, read from a Hugging Face config.json. One function per architecture."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError


class ShapeValue(NamedTuple):
    """One value that the architecture or config.json fixes."""

    flag: str
    """The Megatron flag that could contradict it."""
    dest: str
    """Name of the value in Megatron's namespace."""
    value: bool | int | float | str
    source: str
    """What config.json says, in its own words, for example "num_hidden_layers 36"."""


def shape_of(config: Mapping[str, JsonValue], *, where: str) -> tuple[ShapeValue, ...]:
    """The shape of the model that `config` describes.

    Args:
        config: a parsed config.json.
        where: how messages call it, for example "config.json of /models/Qwen3-4B".

    Raises:
        TrainConfigError: if the architecture is not one of `ARCHITECTURES`, or a key is missing or has a value that
            the architecture's layers here do not have.
    """
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise TrainConfigError(
            f"{where}: expected an architecture among {', '.join(sorted(ARCHITECTURES))}, got {architecture or 'none'}"
        )
    return ARCHITECTURES[architecture](_Reader(config, where))


class _Reader:
    """Typed access to config.json, with errors that name the key."""

    def __init__(self, config: Mapping[str, JsonValue], where: str) -> None:
        self._config = config
        self._where = where

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TrainConfigError(f"{self._where}: expected {key} to be a positive integer, got {value!r}")
        return value

    def number(self, key: str) -> float:
        return self._as_number(key, self._config.get(key))

    def rope_theta(self) -> int:
        """The rotary base. transformers 5 keeps it in rope_parameters, older releases beside rope_scaling."""
        nested = self._config.get("rope_parameters") or self._config.get("rope_scaling") or {}
        if not isinstance(nested, dict):
            raise TrainConfigError(f"{self._where}: expected rope_parameters to be an object, got {nested!r}")
        kind = nested.get("rope_type", nested.get("type", "default"))
        if kind != "default":
            raise TrainConfigError(f"{self._where}: expected the plain rotary embedding, got rope_type {kind!r}")
        theta = self._as_number("rope_theta", nested.get("rope_theta", self._config.get("rope_theta")))
        if theta != int(theta):
            raise TrainConfigError(f"{self._where}: expected an integral rope_theta, got {theta}")
        return int(theta)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._config.get(key, default)
        if not isinstance(value, bool):
            raise TrainConfigError(f"{self._where}: expected {key} to be true or false, got {value!r}")
        return value

    def require(self, key: str, expected: JsonValue) -> None:
        """Checks a key that may be absent and otherwise can have one value only."""
        value = self._config.get(key, expected)
        if value != expected:
            raise TrainConfigError(f"{self._where}: expected {key} {expected!r} in this architecture, got {value!r}")

    def _as_number(self, key: str, value: JsonValue) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise TrainConfigError(f"{self._where}: expected {key} to be a positive number, got {value!r}")
        return float(value)


def _qwen3(config: _Reader) -> tuple[ShapeValue, ...]:
    """Dense Qwen3: grouped-query attention with query and key norms, RMSNorm, SwiGLU, rotary positions, no biases."""
    config.require("hidden_act", "silu")
    config.require("attention_bias", False)
    config.require("use_sliding_window", False)
    num_groups = config.integer("num_key_value_heads")
    head_dim = config.integer("head_dim", 128)  # as transformers' Qwen3Config has it, whatever the other sizes
    is_tied = config.boolean("tie_word_embeddings", False)
    epsilon, theta = config.number("rms_norm_eps"), config.rope_theta()
    groups = ShapeValue("--num-query-groups", "num_query_groups", num_groups, f"num_key_value_heads {num_groups}")
    return (
        _copied(config, "--num-layers", "num_hidden_layers"),
        _copied(config, "--hidden-size", "hidden_size"),
        _copied(config, "--ffn-hidden-size", "intermediate_size"),
        _copied(config, "--num-attention-heads", "num_attention_heads"),
        groups,
        ShapeValue("--group-query-attention", "group_query_attention", True, groups.source),
        ShapeValue("--kv-channels", "kv_channels", head_dim, f"head_dim {head_dim}"),
        ShapeValue("--norm-epsilon", "layernorm_epsilon", epsilon, f"rms_norm_eps {epsilon}"),
        ShapeValue("--rotary-base", "rotary_base", theta, f"rope_theta {theta}"),
        _copied(config, "--max-position-embeddings", "max_position_embeddings"),
        _copied(config, "--vocab-size", "vocab_size"),
        ShapeValue(
            "--untie-embeddings-and-output-weights",
            "untie_embeddings_and_output_weights",
            not is_tied,
            f"tie_word_embeddings {str(is_tied).lower()}",
        ),
        *_constant("Qwen3ForCausalLM"),
    )


def _constant(architecture: str) -> tuple[ShapeValue, ...]:
    source = f"architecture {architecture}"
    return (
        ShapeValue("--qk-layernorm", "qk_layernorm", True, source),
        ShapeValue("--swiglu", "swiglu", True, source),
        ShapeValue("--normalization", "normalization", "RMSNorm", source),
        ShapeValue("--disable-bias-linear", "add_bias_linear", False, source),
        ShapeValue("--add-qkv-bias", "add_qkv_bias", False, source),
        ShapeValue("--position-embedding-type", "position_embedding_type", "rope", source),
        ShapeValue("--use-rotary-position-embeddings", "use_rotary_position_embeddings", True, source),
        ShapeValue("--rotary-percent", "rotary_percent", 1.0, source),
    )


def _copied(config: _Reader, flag: str, key: str) -> ShapeValue:
    value = config.integer(key)
    return ShapeValue(flag, flag.removeprefix("--").replace("-", "_"), value, f"{key} {value}")


ARCHITECTURES: Mapping[str, Callable[[_Reader], tuple[ShapeValue, ...]]] = {"Qwen3ForCausalLM": _qwen3}
"""Architecture as config.json names it -> its shape."""
