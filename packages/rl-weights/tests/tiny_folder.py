"""A tiny model of any family in a folder, made of a seed, without transformers."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rl_weights.rules import rules_for

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "bos_token_id": 1,
    "dtype": "float32",
    "eos_token_id": 2,
    "head_dim": 16,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "vocab_size": 67,
}

FAMILIES = {
    "qwen3": CONFIG,
    "qwen3_moe": {
        **CONFIG,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "qwen2": {**CONFIG, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": 8},
    "llama": {
        **CONFIG,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "mlp_bias": False,
        "rope_parameters": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,  # as Megatron has it built in
            "rope_theta": 10000.0,
            "rope_type": "llama3",
        },
    },
    "mistral": {**CONFIG, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
}
"""A config.json of each family."""


def tensors_of(config, dtype=torch.float32, seed=0):
    """Every tensor of the model: norms around 1, the rest around 0."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for rule in rules_for(config):
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True):
            if len(shape) == 1 and name.endswith("weight"):
                tensors[name] = (0.5 + torch.rand(shape, generator=generator)).to(dtype)
            else:
                tensors[name] = (0.3 * torch.randn(shape, generator=generator)).to(dtype)
    return tensors


def write_model(folder, *, family="qwen3", dtype=torch.float32, seed=0, extra=None, **changes):
    """Writes the folder and returns the tensors in it."""
    config = {**FAMILIES[family], "dtype": str(dtype).removeprefix("torch."), **changes}
    tensors = tensors_of(config, dtype, seed)
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    save_file({**tensors, **(extra or {})}, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def quantise(folder, block=(16, 16)):
    """Makes the weights of the layers float8 with scales, as in Qwen's FP8 folders; returns what they stand for."""
    tensors = load_file(folder / "model.safetensors")
    stored, meant = {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 or "layers" not in name:
            stored[name] = meant[name] = tensor.to(torch.bfloat16)
            continue
        rows, columns = (-(-size // step) for size, step in zip(tensor.shape, block, strict=True))
        stored[name] = tensor.to(torch.float8_e4m3fn)
        scales = 0.01 + torch.rand(rows, columns, generator=generator)
        stored[f"{name}_scale_inv"] = scales
        meant[name] = torch.empty(tensor.shape, dtype=torch.bfloat16)
        for row in range(tensor.shape[0]):
            for column in range(tensor.shape[1]):
                scale = scales[row // block[0], column // block[1]]
                meant[name][row, column] = (stored[name][row, column].float() * scale).to(torch.bfloat16)
    save_file(stored, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": list(block)}
    config |= {"dtype": "bfloat16", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return meant
