"""A tiny Qwen3 with random weights, and engines on it that live as long as the test session."""

import os
from pathlib import Path

import numpy as np
import pytest

from rl_rollout import SGLangEngine

os.environ.setdefault("OMP_NUM_THREADS", "1")

VOCABULARY = 320


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a 2-layer Qwen3 in float32; its end token is <|im_end|>."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rl_data.testing import tiny_tokenizer

    folder = tmp_path_factory.mktemp("tiny-qwen3")
    tokenizer = tiny_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=tokenizer.encode("<|im_end|>")[0], bos_token_id=None, pad_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sglang_engine(tiny_model):
    engine = SGLangEngine(tiny_model, name="engine 0")
    yield engine
    engine.close()


@pytest.fixture
def prompt():
    return np.arange(5, 15, dtype=np.int32)
