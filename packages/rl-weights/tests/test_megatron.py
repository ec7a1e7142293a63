"""Against the real thing: Megatron's own reader and writer on CPU ranks, and what transformers computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_folder import CONFIG, write_model

from rl_weights import (
    ParallelLayout,
    TorchDistCheckpoint,
    convert_hf_to_torch_dist,
    convert_torch_dist_to_hf,
    verify_checkpoint,
)
from rl_weights.torch_dist.reader import _read_metadata

TOKENS = [[1, 2, 3, 4, 9, 8, 7, 66], [5, 6, 7, 8, 1, 1, 2, 0]]
PADDED_VOCAB = 68

# Both sum in fp32, in another order: 1e-7 relative for each of some 40 dependent sums, at logits of up to 10.
TOLERANCE = {"rtol": 0.0, "atol": 5e-5}

pytestmark = pytest.mark.slow


# name: (model folder, tensor-, pipeline-, expert-parallel size, more)
LAYOUTS = {
    "tp1": ("untied", 1, 1, 1, {"save": "again/iter_0000007"}),
    "tp2": ("untied", 2, 1, 1, {}),
    "pp2": ("tied", 1, 2, 1, {}),
    "tp2_pp2": ("tied", 2, 2, 1, {}),
    "uneven_pp2": ("untied", 2, 2, 1, {"first_stage_layers": 1}),
    "other_padding": ("untied", 2, 1, 1, {"padded_vocab": 160}),
    "by_training_tp1": ("tied", 1, 1, 1, {"by_training": True}),
    "by_training_tp2": ("tied", 2, 1, 1, {"by_training": True}),
    "by_training_pp2": ("tied", 1, 2, 1, {"by_training": True}),
    "by_training_tp2_pp2": ("tied", 2, 2, 1, {"by_training": True}),
    "qwen2": ("qwen2", 2, 2, 1, {}),
    "llama": ("llama", 2, 2, 1, {}),
    "mistral": ("mistral", 2, 2, 1, {}),
    "qwen3_moe_ep2": ("qwen3_moe", 2, 2, 2, {"save": "again_moe/iter_0000007"}),
    "qwen3_moe_tp2": ("qwen3_moe", 2, 2, 1, {}),
    "qwen3_moe_some_layers": ("qwen3_moe_some", 1, 2, 2, {"save": "again_some/iter_0000007"}),
}
MODELS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "qwen2": {"family": "qwen2"},
    "llama": {"family": "llama"},
    "mistral": {"family": "mistral"},
    "qwen3_moe": {"family": "qwen3_moe"},
    "qwen3_moe_some": {"family": "qwen3_moe", "mlp_only_layers": [0, 3]},
}
TRAINED = {
    "trained_tp2": ("untied", 2, 1, "dp_reshardable"),
    "trained_pp2": ("tied", 1, 2, "fully_reshardable"),
    "trained_tp2_pp2": ("untied", 2, 2, "fully_reshardable"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which four ranks loaded our checkpoints at many layouts, and saved some of their own."""
    pytest.importorskip("megatron.core", reason="needs rl-weights[megatron]")
    pytest.importorskip("transformers", reason="needs transformers for the reference")
    folder = tmp_path_factory.mktemp("megatron")
    for kind, settings in MODELS.items():
        write_model(folder / f"hf_{kind}", seed=3, **settings)
        convert_hf_to_torch_dist(
            folder / f"hf_{kind}", folder / f"ours_{kind}", make_vocab_size_divisible_by=4, transformer_impl="local"
        )

    def job(name, kind, tp, pp, ep=1, **more):
        fixed = {"tokens": TOKENS, "padded_vocab": PADDED_VOCAB, "config": str(folder / f"hf_{kind}" / "config.json")}
        layout = {"tp": tp, "pp": pp, "ep": ep, "first_stage_layers": None}
        return {**fixed, **layout, "logits": str(folder / f"{name}.pt"), **more}

    jobs = []
    for name, (kind, tp, pp, ep, more) in LAYOUTS.items():
        load = {"load": str(folder / f"ours_{kind}/release")}
        if more.get("by_training"):
            load = {"training_load": str(folder / f"ours_{kind}")}
        paths = {"save": str(folder / more["save"])} if "save" in more else {}
        jobs.append(job(name, kind, tp, pp, ep, **load, **{**more, **paths}))
    for name, (kind, tp, pp, optimizer) in TRAINED.items():
        jobs.append(job(name, kind, tp, pp, save=str(folder / name / "iter_0000007"), optimizer=optimizer))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("megatron_rank.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", str(script)]
    done = subprocess.run(
        [*command, str(folder / "jobs.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def transformers_logits(folder):
    """[batch, tokens, vocabulary]"""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


@pytest.mark.parametrize("name", LAYOUTS)
def test_megatron_loads_our_checkpoint_at_any_layout_and_computes_the_logits_of_transformers(ran, name):
    kind, *_, more = LAYOUTS[name]
    logits = torch.load(ran / f"{name}.pt")
    assert logits.shape == (2, 8, more.get("padded_vocab", PADDED_VOCAB))
    real, padding = logits.tensor_split([CONFIG["vocab_size"]], dim=-1)
    torch.testing.assert_close(real, transformers_logits(ran / f"hf_{kind}"), **TOLERANCE)
    assert not padding.any(), "padding rows are zeros"


SAVED_AGAIN = [("untied", "again"), ("qwen3_moe", "again_moe"), ("qwen3_moe_some", "again_some")]


@pytest.mark.parametrize(("kind", "again"), SAVED_AGAIN)
def test_our_checkpoint_has_the_keys_shapes_and_parts_that_megatron_writes(ran, tmp_path, kind, again):
    _, tp, _, ep, _ = next(layout for layout in LAYOUTS.values() if layout[-1].get("save") == f"{again}/iter_0000007")
    layout = ParallelLayout(tensor=tp, expert=ep, expert_tensor=1)
    convert_hf_to_torch_dist(
        ran / f"hf_{kind}", tmp_path / "ours", make_vocab_size_divisible_by=4 // tp, layout=layout,
        transformer_impl="local",
    )  # fmt: skip
    ours = _read_metadata(tmp_path / "ours/release").state_dict_metadata
    theirs = _read_metadata(ran / again / "iter_0000007").state_dict_metadata
    assert sorted(ours) == sorted(theirs)
    for key, entry in theirs.items():
        assert type(ours[key]) is type(entry)
        if hasattr(entry, "size"):
            assert (ours[key].size, ours[key].properties) == (entry.size, entry.properties), key
            chunks = {(chunk.offsets, chunk.sizes) for chunk in entry.chunks}
            assert {(chunk.offsets, chunk.sizes) for chunk in ours[key].chunks} == chunks, key


@pytest.mark.parametrize(("kind", "again"), SAVED_AGAIN)
def test_what_megatron_saved_again_is_what_we_wrote_to_the_bit(ran, kind, again):
    ours, theirs = TorchDistCheckpoint(ran / f"ours_{kind}"), TorchDistCheckpoint(ran / again / "iter_0000007")
    assert set(ours.specs) == set(theirs.specs)
    for name, tensor in ours.iter_tensors():
        assert torch.equal(tensor, theirs.read(name)), name


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_checkpoint_with_optimizer_state_becomes_a_model_that_computes_the_same(ran, name):
    checkpoint, target = ran / name / "iter_0000007", ran / f"hf_of_{name}"
    convert_torch_dist_to_hf(checkpoint, ran / f"hf_{TRAINED[name][0]}", target)
    logits = torch.load(ran / f"{name}.pt")[..., : CONFIG["vocab_size"]]
    torch.testing.assert_close(transformers_logits(target), logits, **TOLERANCE)
    assert verify_checkpoint(checkpoint).is_whole
    assert TorchDistCheckpoint(checkpoint).iteration == 7
