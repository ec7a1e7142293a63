"""Against the real thing: Megatron's own reader and writer on CPU ranks, and what transformers computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_qwen3_folder import CONFIG, write_model

from rl_weights import TorchDistCheckpoint, convert_hf_to_torch_dist, convert_torch_dist_to_hf, verify_checkpoint
from rl_weights.torch_dist.reader import _read_metadata

TOKENS = [[1, 2, 3, 4, 9, 8, 7, 66], [5, 6, 7, 8, 1, 1, 2, 0]]
PADDED_VOCAB = 68

# Both sum in fp32, in another order: 1e-7 relative for each of some 40 dependent sums, at logits of up to 10.
TOLERANCE = {"rtol": 0.0, "atol": 5e-5}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which two ranks loaded our checkpoints at three layouts, and saved two of their own."""
    pytest.importorskip("megatron.core", reason="needs rl-weights[megatron]")
    pytest.importorskip("transformers", reason="needs transformers for the reference")
    folder = tmp_path_factory.mktemp("megatron")
    for kind, is_tied in (("tied", True), ("untied", False)):
        write_model(folder / f"hf_{kind}", tie_word_embeddings=is_tied, seed=3)
        convert_hf_to_torch_dist(folder / f"hf_{kind}", folder / f"ours_{kind}", make_vocab_size_divisible_by=4)

    def job(name, kind, tp, pp, padded_vocab=PADDED_VOCAB, **more):
        fixed = {"tokens": TOKENS, "padded_vocab": padded_vocab, "config": str(folder / f"hf_{kind}" / "config.json")}
        return {**fixed, "tp": tp, "pp": pp, "logits": str(folder / f"{name}.pt"), **more}

    jobs = [
        job("tp2", "untied", 2, 1, load=str(folder / "ours_untied/release")),
        job("pp2", "tied", 1, 2, load=str(folder / "ours_tied/release")),
        job("other_padding", "untied", 2, 1, 160, load=str(folder / "ours_untied/release")),
        job("by_training", "tied", 2, 1, training_load=str(folder / "ours_tied")),
        job("tp1", "untied", 1, 1, load=str(folder / "ours_untied/release"), save=str(folder / "again/iter_0000007")),
        job("trained_tp2", "untied", 2, 1, save=str(folder / "tp2/iter_0000007"), optimizer="dp_reshardable"),
        job("trained_pp2", "tied", 1, 2, save=str(folder / "pp2/iter_0000007"), optimizer="fully_reshardable"),
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("megatron_rank.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [*command, str(folder / "jobs.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def transformers_logits(folder):
    """[batch, tokens, vocabulary]"""
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


@pytest.mark.parametrize(
    ("name", "kind", "padded_vocab"),
    [
        ("tp1", "untied", PADDED_VOCAB),
        ("tp2", "untied", PADDED_VOCAB),
        ("pp2", "tied", PADDED_VOCAB),
        ("other_padding", "untied", 160),
        ("by_training", "tied", PADDED_VOCAB),
    ],
)
def test_megatron_loads_our_checkpoint_at_any_layout_and_computes_the_logits_of_transformers(
    ran, name, kind, padded_vocab
):
    logits = torch.load(ran / f"{name}.pt")
    assert logits.shape == (2, 8, padded_vocab)
    real, padding = logits.tensor_split([CONFIG["vocab_size"]], dim=-1)
    torch.testing.assert_close(real, transformers_logits(ran / f"hf_{kind}"), **TOLERANCE)
    assert not padding.any(), "padding rows are zeros"


def test_our_checkpoint_has_the_keys_shapes_and_parts_that_megatron_writes(ran):
    ours = _read_metadata(ran / "ours_untied/release").state_dict_metadata
    theirs = _read_metadata(ran / "again/iter_0000007").state_dict_metadata
    assert sorted(ours) == sorted(theirs)
    for key, entry in theirs.items():
        assert type(ours[key]) is type(entry)
        if hasattr(entry, "size"):
            assert (ours[key].size, ours[key].properties) == (entry.size, entry.properties), key
            chunks = {(chunk.offsets, chunk.sizes) for chunk in entry.chunks}
            assert {(chunk.offsets, chunk.sizes) for chunk in ours[key].chunks} == chunks, key


def test_what_megatron_saved_again_is_what_we_wrote_to_the_bit(ran):
    ours, theirs = TorchDistCheckpoint(ran / "ours_untied"), TorchDistCheckpoint(ran / "again/iter_0000007")
    assert set(ours.specs) == set(theirs.specs)
    for name, tensor in ours.iter_tensors():
        assert torch.equal(tensor, theirs.read(name)), name


@pytest.mark.parametrize(("layout", "kind"), [("tp2", "untied"), ("pp2", "tied")])
def test_a_training_checkpoint_with_optimizer_state_becomes_a_model_that_computes_the_same(ran, layout, kind):
    checkpoint, target = ran / layout / "iter_0000007", ran / f"hf_of_{layout}"
    convert_torch_dist_to_hf(checkpoint, ran / f"hf_{kind}", target)
    logits = torch.load(ran / f"trained_{layout}.pt")[..., : CONFIG["vocab_size"]]
    torch.testing.assert_close(transformers_logits(target), logits, **TOLERANCE)
    assert verify_checkpoint(checkpoint).is_whole
    assert TorchDistCheckpoint(checkpoint).iteration == 7
