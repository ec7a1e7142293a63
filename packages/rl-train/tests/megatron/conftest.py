import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_weights import ParallelLayout, convert_hf_to_torch_dist

HERE = Path(__file__).parent
TP2 = ["--tensor-model-parallel-size", "2"]
PP2 = ["--pipeline-model-parallel-size", "2"]
CASES = [
    {"name": "one", "do": "train", "world_size": 1, "flags": []},
    {"name": "one_row", "do": "train", "world_size": 1, "flags": [], "num_microbatches": 1},
    {"name": "five_rows", "do": "train", "world_size": 1, "flags": [], "num_microbatches": 5},
    {"name": "warm", "do": "train", "world_size": 1, "flags": [], "temperature": 0.7},
    {"name": "policy", "do": "train", "world_size": 1, "flags": [], "loss": "policy"},
    {
        "name": "recompute",
        "do": "train",
        "world_size": 1,
        "flags": ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"],
    },
    {"name": "recompute_attention", "do": "train", "world_size": 1, "flags": ["--recompute-activations"]},
    {
        "name": "recompute_modules",
        "do": "train",
        "world_size": 1,
        "flags": ["--recompute-granularity", "selective", "--recompute-modules", "mlp", "core_attn"],
    },
    {"name": "unknown_gradient", "do": "train", "world_size": 1, "flags": [], "loss": "sft_unknown"},
    {
        "name": "recompute_elementwise",
        "do": "train",
        "world_size": 1,
        "flags": [],
        "config": {"recompute_policy": "activations"},
    },
    {
        "name": "recompute_all_sp",
        "do": "train",
        "world_size": 2,
        "flags": [*TP2, "--sequence-parallel"],
        "config": {"recompute_policy": "full"},
    },
    {
        "name": "fused",
        "do": "fused",
        "world_size": 2,
        "flags": [*TP2, "--sequence-parallel"],
        "loss": "policy",
        "config": {"recompute_policy": "activations"},
    },
    {"name": "untied", "do": "train", "world_size": 1, "flags": [], "model": "untied"},
    {"name": "untied_sp", "do": "train", "world_size": 2, "flags": [*TP2, "--sequence-parallel"], "model": "untied"},
    {"name": "untied_pp", "do": "train", "world_size": 2, "flags": PP2, "model": "untied"},
    {"name": "bf16", "do": "train", "world_size": 1, "flags": ["--bf16"]},
    {"name": "reference", "do": "reference", "world_size": 1, "flags": []},
    {"name": "skip", "do": "skip", "world_size": 1, "flags": []},
    {"name": "dp", "do": "train", "world_size": 2, "flags": []},
    {"name": "tp", "do": "train", "world_size": 2, "flags": TP2},
    {"name": "sp", "do": "train", "world_size": 2, "flags": [*TP2, "--sequence-parallel"]},
    {"name": "pp", "do": "train", "world_size": 2, "flags": PP2},
    {"name": "from_release", "do": "train", "world_size": 2, "flags": TP2, "weights": "torch_dist"},
    {"name": "policy_sp", "do": "train", "world_size": 2, "flags": [*TP2, "--sequence-parallel"], "loss": "policy"},
    {"name": "policy_pp", "do": "train", "world_size": 2, "flags": PP2, "loss": "policy"},
    {"name": "resume_dp", "do": "resume", "world_size": 2, "flags": []},
    {"name": "resume_pp", "do": "resume", "world_size": 2, "flags": PP2},
    {"name": "resume_bf16", "do": "resume", "world_size": 1, "flags": ["--bf16"]},
    {"name": "release_dp", "do": "release", "world_size": 2, "flags": []},
    {"name": "release_tp_bf16", "do": "release", "world_size": 2, "flags": [*TP2, "--bf16"]},
    {"name": "dp_on_one", "do": "resume_elsewhere", "world_size": 1, "flags": [], "from": "resume_dp"},
    {"name": "dp_on_tp", "do": "resume_elsewhere", "world_size": 2, "flags": TP2, "from": "resume_dp"},
    {"name": "pp_on_one", "do": "resume_elsewhere", "world_size": 1, "flags": [], "from": "resume_pp"},
    {
        "name": "promises",
        "do": "promises",
        "world_size": 2,
        "flags": ["--lr-decay-style", "constant", "--lr-warmup-iters", "0"],
    },
    {"name": "refuse", "do": "refuse", "world_size": 2, "flags": [*TP2, "--sequence-parallel"]},
    {"name": "refuse_dp", "do": "refuse_on_one_rank", "world_size": 2, "flags": []},
    {"name": "stranger", "do": "stranger", "world_size": 2, "flags": [], "from": "resume_dp"},
    # The last one, because a rank dies.
    {"name": "die", "do": "die", "world_size": 2, "flags": []},
]


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    def make(folder: Path, *, is_tied: bool = True) -> Path:
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM

        config = Qwen3Config(
            vocab_size=101,  # odd: two tensor-parallel ranks need a padding row
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=is_tied,
            dtype="float32",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Qwen3ForCausalLM(config)
            for name, weight in model.named_parameters():
                if "norm" in name:  # so that norm weights matter
                    torch.nn.init.uniform_(weight, 0.5, 1.5)
                else:
                    torch.nn.init.normal_(weight, std=0.15)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    make_model(folder / "model")
    make_model(folder / "untied", is_tied=False)
    return folder


@pytest.fixture(scope="session")
def results(folder: Path) -> dict:
    """What two rank processes gave for all cases."""
    convert_hf_to_torch_dist(folder / "model", folder / "torch_dist", layout=ParallelLayout(tensor=2))
    (folder / "cases.json").write_text(json.dumps(CASES))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
    # Without a GPU, fused kernels run in Triton's interpreter.
    environment["TRITON_INTERPRET"] = "1"
    ranks = [
        subprocess.Popen(
            [sys.executable, HERE / "rank_program.py", str(rank), folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 300
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < deadline, "the ranks did not end in time"
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.kill()
    outputs = [rank.communicate()[0] for rank in ranks]
    failed = [number for number, rank in enumerate(ranks) if rank.returncode > 0]
    assert not failed, f"rank {failed[0]}:\n{outputs[failed[0]][-4000:]}"
    return json.loads((folder / "rank0.json").read_text())
