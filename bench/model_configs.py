"""config.json of models that the benchmarks know by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from rl_weights.json_value import JsonValue

_QWEN3: Mapping[str, JsonValue] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
}

MODEL_CONFIGS: Mapping[str, Mapping[str, JsonValue]] = {
    # Source: config.json of Qwen/Qwen3-4B.
    "qwen3-4b": {
        **_QWEN3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000,
        "vocab_size": 151936,
    },
    # Small enough for a test, with more tokens than its tokenizer learned.
    "tiny": {
        **_QWEN3,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_theta": 10000,
        "vocab_size": 768,
    },
}


def model_config(name_or_file: str) -> Mapping[str, JsonValue]:
    """A configuration by its name here, or the content of a config.json.

    Raises:
        ValueError: if it is neither a name nor a file with a JSON object.
    """
    if name_or_file in MODEL_CONFIGS:
        return MODEL_CONFIGS[name_or_file]
    file = Path(name_or_file)
    if not file.is_file():
        raise ValueError(f"--config {name_or_file}: expected one of {sorted(MODEL_CONFIGS)}, or a config.json")
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"--config {name_or_file}: expected a JSON object, got {type(content).__name__}")
    return cast("Mapping[str, JsonValue]", content)
