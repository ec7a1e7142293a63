"""A tiny Qwen3 with random weights, in Hugging Face format."""

from pathlib import Path

from recipes.errors import UsageError
from recipes.light_transformers import light_transformers


def make_tiny_model(folder: Path, seed: int) -> Path:
    """Writes a Qwen3 of 0.9 million fp32 parameters with its tokenizer and returns `folder`.

    The architecture is the real one: grouped-query attention (4 query heads, 2 key/value heads), query and key
    normalisation, rotary positions, SwiGLU, tied embeddings. Equal seeds give equal bytes.

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

    pad_id, eos_id = SPECIAL_TOKENS.index(END_OF_TEXT), SPECIAL_TOKENS.index(TURN_END)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        initializer_range=0.05,
        tie_word_embeddings=True,
        use_sliding_window=False,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        dtype="float32",
    )
    transformers_logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        model = Qwen3ForCausalLM(config)
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
