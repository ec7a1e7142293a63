"""Small Qwen3 models with random weights, in Hugging Face format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.errors import UsageError
from recipes.light_transformers import light_transformers

type SizeName = Literal["tiny", "30m"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What differs between the models. All have 4 query heads and 2 key/value heads in a layer."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    head_dim: int
    initializer_range: float
    dtype: Literal["float32", "bfloat16"]


_SIZES: Mapping[SizeName, _Size] = {
    "tiny": _Size(
        hidden_size=128, intermediate_size=384, num_layers=4, head_dim=32, initializer_range=0.05, dtype="float32"
    ),
    # Heads of 128, as in every Qwen3, for which kernels on GPUs are made.
    "30m": _Size(
        hidden_size=512, intermediate_size=1920, num_layers=8, head_dim=128, initializer_range=0.02, dtype="bfloat16"
    ),
}


def make_tiny_model(folder: Path, seed: int) -> Path:
    """`make_model` of the smallest size."""
    return make_model(folder, seed, "tiny")


def make_model(folder: Path, seed: int, size: SizeName) -> Path:
    """Writes a Qwen3 with its tokenizer and returns `folder`.

    The architecture is the real one: grouped-query attention, query and key normalisation, rotary positions, SwiGLU,
    tied embeddings. Equal seeds give equal bytes. "tiny" has 0.9 million parameters in fp32, "30m" 30 million in bf16.

    Raises:
        UsageError: if `folder` holds something already.
    """
    require_empty(folder)
    # Importing transformers' models loads torch, which takes seconds.
    import torch

    with light_transformers():
        from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
        from transformers.utils import logging as transformers_logging

        from recipes.toy.tokenizer import (
            END_OF_TEXT,
            MAX_POSITIONS,
            SPECIAL_TOKENS,
            TURN_END,
            VOCAB_SIZE,
            save_tokenizer,
        )

    shape = _SIZES[size]
    pad_id, eos_id = SPECIAL_TOKENS.index(END_OF_TEXT), SPECIAL_TOKENS.index(TURN_END)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=shape.head_dim,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=True,
        use_sliding_window=False,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        dtype=shape.dtype,
    )
    transformers_logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        model = Qwen3ForCausalLM(config)
    if shape.dtype == "bfloat16":
        model.bfloat16()
    model.generation_config = GenerationConfig(pad_token_id=pad_id, eos_token_id=[eos_id, pad_id], do_sample=True)
    model.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
    save_tokenizer(folder, seed)
    return folder


def require_empty(folder: Path) -> None:
    """Does nothing if there is no such folder, or nothing in it.

    Raises:
        UsageError: if it holds something or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: expected a new or empty folder, found {'files' if folder.is_dir() else 'a file'}")
