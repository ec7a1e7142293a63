"""Megatron trainers on CPU ranks, in several layouts, against transformers and against each other."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

# Sums in another order: float32 keeps 7 digits, of which three training steps cost one or two.
CLOSE = {"rel": 2e-5, "abs": 1e-6}

pytestmark = pytest.mark.slow


def hf_logprobs(folder: Path, batch: list, temperature: float = 1.0) -> np.ndarray:
    """All rows end to end, each sequence scored alone by transformers."""
    import torch
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parts = []
    for row in (row for rank in batch for row in rank):
        bounds = row["cu_seqlens"]
        for start, stop in pairwise(bounds):
            tokens = torch.tensor(row["tokens"][start:stop])[None]
            with torch.no_grad():
                scores = (model(tokens).logits[0] / temperature).log_softmax(-1)
            parts.append(torch.cat([torch.zeros(1), scores[:-1].gather(1, tokens[0, 1:, None])[:, 0]]))
    return torch.cat(parts).numpy()


def flat(logprobs: list) -> np.ndarray:
    return np.concatenate([np.array(row) for rank in logprobs for row in rank])


@pytest.mark.parametrize("name", ["one", "one_row", "dp", "tp", "sp", "pp", "recompute"])
def test_log_probabilities_are_those_of_transformers(results: dict, folder: Path, name: str) -> None:
    case = results[name]
    difference = np.abs(flat(case["logprobs"]) - hf_logprobs(folder / "model", case["batch"]))
    assert difference.mean() < 1e-6
    assert difference.max() < 1e-5


@pytest.mark.parametrize("name", ["untied", "untied_sp", "untied_pp"])
def test_a_model_with_an_output_layer_of_its_own_is_that_of_transformers(
    results: dict, folder: Path, name: str
) -> None:
    case = results[name]
    assert np.abs(flat(case["logprobs"]) - hf_logprobs(folder / "untied", case["batch"])).max() < 1e-5
    exported = hf_logprobs(folder / f"{name}.hf", results["untied"]["batch"])
    expected = hf_logprobs(folder / "untied.hf", results["untied"]["batch"])
    assert np.abs(exported - expected).mean() < 1e-4  # see test_exported_model_is_the_trained_one


def test_log_probabilities_are_divided_by_the_temperature_before_the_softmax(results: dict, folder: Path) -> None:
    case = results["warm"]
    expected = hf_logprobs(folder / "model", case["batch"], temperature=0.7)
    assert np.abs(flat(case["logprobs"]) - expected).max() < 1e-5


def test_half_precision_is_near_float32(results: dict) -> None:
    difference = np.abs(flat(results["bf16"]["logprobs"]) - flat(results["one"]["logprobs"]))
    assert 0 < difference.mean() < 0.05  # bfloat16 keeps 8 bits
    assert results["bf16"]["steps"][0]["loss"] == pytest.approx(results["one"]["steps"][0]["loss"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("one_row", "one"),
        ("five_rows", "one"),
        ("recompute", "one"),
        ("recompute_attention", "one"),
        ("unknown_gradient", "one"),
        ("recompute_elementwise", "one"),
        ("recompute_all_sp", "one"),
        ("recompute_modules", "one"),
        ("untied_sp", "untied"),
        ("untied_pp", "untied"),
        ("dp", "one"),
        ("tp", "one"),
        ("from_release", "one"),
        ("sp", "one"),
        ("pp", "one"),
        ("policy_sp", "policy"),
        ("policy_pp", "policy"),
    ],
)
def test_steps_do_not_depend_on_layout_and_split(results: dict, name: str, same_as: str) -> None:
    for step, expected in zip(results[name]["steps"], results[same_as]["steps"], strict=True):
        assert step["loss"] == pytest.approx(expected["loss"], **CLOSE)
        assert step["grad_norm"] == pytest.approx(expected["grad_norm"], **CLOSE)
        assert step["metrics"] == pytest.approx(expected["metrics"], **CLOSE)
        assert step["learning_rate"] == expected["learning_rate"]


def test_fused_kernels_give_the_steps_of_plain_ones(results: dict) -> None:
    (step, logprobs), (expected, expected_logprobs) = results["fused"]["fused"], results["fused"]["plain"]
    assert step["loss"] == pytest.approx(expected["loss"], **CLOSE)
    assert step["grad_norm"] == pytest.approx(expected["grad_norm"], **CLOSE)
    assert step["metrics"] == pytest.approx(expected["metrics"], **CLOSE)
    assert np.abs(np.array(logprobs) - expected_logprobs).max() < 1e-5


def test_loss_falls_along_the_schedule_of_the_flags(results: dict) -> None:
    steps = results["one"]["steps"]
    assert steps[0]["loss"] > steps[2]["loss"]
    assert [step["step"] for step in steps] == [1, 2, 3]
    # Two warm-up steps to 1e-3, then a cosine over the remaining eight, of which none is over at the third step.
    assert [step["learning_rate"] for step in steps] == pytest.approx([0.0, 0.5e-3, 1e-3])


def test_supervised_loss_is_the_mean_negative_log_likelihood_of_the_trained_tokens(results: dict) -> None:
    case = results["one"]
    logprobs, positions = flat(case["logprobs"]), []
    for row in (row for rank in case["batch"] for row in rank):
        bounds = row["cu_seqlens"]
        positions += [t for start, stop in pairwise(bounds) for t in range(stop - start)]
    trained = np.array(positions) >= 2
    assert case["steps"][0]["loss"] == pytest.approx(-logprobs[trained].mean(), rel=1e-6)
    assert case["steps"][0]["metrics"]["nll"] == pytest.approx(-logprobs[trained].mean(), rel=1e-6)


@pytest.mark.parametrize("name", ["one", "dp", "tp", "sp", "pp"])
def test_exported_model_is_the_trained_one(results: dict, folder: Path, name: str) -> None:
    """transformers gives it the loss that the trainer would see next; the tied output layer has one copy."""
    exported = hf_logprobs(folder / f"{name}.hf", results["one"]["batch"])
    expected = hf_logprobs(folder / "one.hf", results["one"]["batch"])
    before = hf_logprobs(folder / "model", results["one"]["batch"])
    assert np.abs(exported - before).max() > 1e-3
    # Adam divides by the root of tiny second moments, which multiplies the rounding of near-zero gradients.
    assert np.abs(exported - expected).mean() < 1e-4


@pytest.mark.parametrize("name", ["resume_dp", "resume_pp", "resume_bf16"])
def test_a_resumed_run_is_equal_to_the_bit(results: dict, name: str) -> None:
    case = results[name]
    assert case["resumed_steps"] == case["steps"][2:]
    assert case["weights"][0] == case["weights"][1]
    assert case["rng"][0] == case["rng"][1]
    assert case["state"] == {"position": 7, "buffer": [1, "a"]}
    assert Path(case["saved"]).name == "iter_0000002"


def test_a_run_can_be_resumed_on_another_number_of_data_parallel_ranks(results: dict) -> None:
    for step, expected in zip(results["dp_on_one"]["steps"], results["resume_dp"]["steps"][2:], strict=True):
        assert step["step"] == expected["step"]
        assert step["loss"] == pytest.approx(expected["loss"], **CLOSE)
        assert step["grad_norm"] == pytest.approx(expected["grad_norm"], **CLOSE)
        assert step["learning_rate"] == expected["learning_rate"]


@pytest.mark.parametrize(("name", "flag"), [("dp_on_tp", "--tensor"), ("pp_on_one", "--pipeline")])
def test_a_run_cannot_be_resumed_with_another_split_of_the_model(results: dict, name: str, flag: str) -> None:
    assert f"written with {flag}-model-parallel-size" in results[name]["refused"]


@pytest.mark.parametrize(
    ("name", "written_by"), [("dp_on_one", "resume_dp"), ("dp_on_tp", "resume_dp"), ("pp_on_one", "resume_pp")]
)
def test_training_can_start_from_the_weights_of_a_checkpoint_in_any_layout(
    results: dict, name: str, written_by: str
) -> None:
    assert results[name]["loss_from_weights"] == pytest.approx(results[written_by]["steps"][2]["loss"], **CLOSE)


@pytest.mark.parametrize("name", ["resume_dp", "resume_pp", "resume_bf16"])
def test_a_checkpoint_converts_to_the_model_that_the_trainer_exports(
    results: dict, folder: Path, tmp_path: Path, name: str
) -> None:
    import torch
    from safetensors.torch import load_file

    from rl_weights import convert_torch_dist_to_hf, read_manifest, verify_checkpoint

    convert_torch_dist_to_hf(folder / f"{name}.checkpoints", folder / "model", tmp_path / "hf")
    converted = load_file(tmp_path / "hf" / "model.safetensors")
    exported = load_file(folder / f"{name}.hf" / "model.safetensors")
    assert converted.keys() == exported.keys()
    assert all(torch.equal(converted[tensor], exported[tensor]) for tensor in exported)
    assert read_manifest(tmp_path / "hf") == read_manifest(folder / f"{name}.hf")
    report = verify_checkpoint(folder / f"{name}.hf")
    assert (report.has_manifest, report.problems) == (True, ())


def test_a_rank_that_dies_while_saving_leaves_the_checkpoint_before(results: dict) -> None:
    case = results["die"]
    assert case["error"] is not None
    assert case["was_begun"]
    assert Path(case["latest"]).name == "iter_0000001"


def test_a_step_without_a_finite_gradient_changes_nothing(results: dict) -> None:
    case = results["skip"]
    assert case["skipped"]["is_skipped"]
    assert case["is_unchanged"]
    assert not case["following"]["is_skipped"]
    assert case["following"]["loss"] == results["one"]["steps"][0]["loss"]
    assert case["following"]["learning_rate"] == results["one"]["steps"][0]["learning_rate"]


def test_reference_weights_are_swapped_in_and_out(results: dict) -> None:
    case = results["reference"]
    assert case["has_moved"]
    assert case["is_reference"]
    assert case["is_own_again"]


def test_a_rank_keeps_the_promises_of_a_trainer(results: dict) -> None:
    assert results["promises"]["has_groups"] is False  # and it would not have come so far if it broke one
    never, *closed = results["promises"]["messages"]
    assert "load_reference was not called" in never
    assert len(closed) == 6
    assert all("was asked of a trainer that was closed" in message for message in closed)


def test_what_does_not_fit_is_refused(results: dict) -> None:
    recompute, padding, ranks, checkpoint = results["refuse"]["messages"]
    assert recompute.startswith("--recompute-modules layernorm: expected modules among core_attn, mlp")
    assert "multiple of 2 tokens" in padding
    assert "expected micro-batches for 1 data-parallel ranks, got 3" in ranks
    assert "latest_checkpointed_iteration.txt" in checkpoint


def test_what_one_rank_refuses_is_refused_by_all_and_the_trainer_goes_on(results: dict) -> None:
    case = results["refuse_dp"]
    ids, first, occupied, begun, committed = case["messages"]
    assert case["is_same"]
    assert "micro-batch 1 of data-parallel rank 1: expected token ids from 0 to 100, got 1" in ids
    assert "micro-batch 1 of data-parallel rank 1: token 0 begins its sequence" in first
    assert "occupied" in occupied
    for message, reason in ((begun, "Not a directory"), (committed, "Is a directory")):
        assert "iter_0000000.tmp: the checkpoint was not written, with " in message
        assert reason in message
    assert case["step"] == results["dp"]["steps"][0]


def test_a_checkpoint_cannot_run_code(results: dict) -> None:
    case = results["stranger"]
    (kind, metadata), (kind_of_objects, objects), (kind_of_weights, weights) = case["messages"]
    assert (kind, kind_of_objects, kind_of_weights) == ("CheckpointError", "TrainerError", "CheckpointError")
    assert "refused to load pathlib" in metadata
    assert "refused to load pathlib" in weights
    assert "cannot be loaded: rank 0" in objects
    assert case["step"] == results["dp"]["steps"][0], "a refused checkpoint changed the trainer"
    assert not case["has_run"]


@pytest.mark.parametrize("name", ["release_dp", "release_tp_bf16"])
def test_memory_that_is_given_up_is_empty_and_comes_back_bit_by_bit(results: dict, name: str) -> None:
    case = results[name]
    through, with_releases = case["steps"]
    assert with_releases == through
    assert case["weights"][1] == case["weights"][0]
    assert all(case["published"])
    nothing, gradients, optimizer, everything = case["sizes"]
    assert all(size > 0 for size in nothing.values())
    assert gradients == {**nothing, "gradients": 0}
    assert optimizer == {"gradients": 0, "optimizer": 0, "parameters": nothing["parameters"]}
    assert everything == {"gradients": 0, "optimizer": 0, "parameters": 0}
    steps, sources, references = case["messages"]
    assert "a training step needs gradients and optimizer and parameters, which are released" in steps
    assert "reading the weights needs parameters, which are released" in sources
    assert "loading a reference policy needs parameters, which are released" in references
    parked = [use["parked_bytes"] for use in case["uses"]]
    assert parked[0] == parked[1] == 0
    assert 0 < parked[2] < parked[3]
    assert all(use["resident_bytes"] > 0 and use["device_bytes"] is None for use in case["uses"])
