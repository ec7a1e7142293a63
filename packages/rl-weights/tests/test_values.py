"""What a conversion does to values: casts, refusals, float8."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folder import FAMILIES, quantise, write_model

from rl_weights import (
    CheckpointError,
    HFCheckpoint,
    convert_hf_to_torch_dist,
    convert_torch_dist_to_hf,
    diff_checkpoints,
)
from rl_weights.hf.fp8 import Unquantized, dequantized

WEIGHTS = "model.safetensors"


def there_and_back(folder, **settings):
    """The tensors after a conversion with these settings, and one back."""
    convert_hf_to_torch_dist(folder / "hf", folder / "megatron", **settings)
    convert_torch_dist_to_hf(folder / "megatron", folder / "hf", folder / "again")
    return load_file(folder / "again" / WEIGHTS)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_comes_back_to_the_bit(tmp_path, family):
    tensors = write_model(tmp_path / "hf", family=family, dtype=torch.bfloat16)
    again = there_and_back(tmp_path)
    assert set(again) == set(tensors)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_cast_as_torch_casts_them_in_both_directions(tmp_path, dtype):
    tensors = write_model(tmp_path / "hf", dtype=torch.float32, num_hidden_layers=1)
    expected = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    again = there_and_back(tmp_path, dtype=dtype)
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert json.loads((tmp_path / "again/config.json").read_text())["dtype"] == dtype
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "as_it_is")
    convert_torch_dist_to_hf(tmp_path / "as_it_is", tmp_path / "hf", tmp_path / "cast", dtype=dtype)
    cast = load_file(tmp_path / "cast" / WEIGHTS)
    assert all(torch.equal(cast[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("value", "settings", "message"), [
    (1e6, {"dtype": "float16"}, r"model\.norm\.weight: values too large for float16: 1"),
    (float("nan"), {"require_finite": True}, r"model\.norm\.weight: NaN or infinite values: 1"),
])  # fmt: skip
def test_values_that_would_be_lost_or_are_unwanted_are_refused(tmp_path, value, settings, message):
    write_model(tmp_path / "hf", num_hidden_layers=1)
    tensors = load_file(tmp_path / "hf" / WEIGHTS)
    tensors["model.norm.weight"][3] = value
    save_file(tensors, tmp_path / "hf" / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron", **settings)
    assert not (tmp_path / "megatron").exists()
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "as_it_is")
    with pytest.raises(CheckpointError, match=message):
        convert_torch_dist_to_hf(tmp_path / "as_it_is", tmp_path / "hf", tmp_path / "again", **settings)
    assert not (tmp_path / "again").exists()


@pytest.fixture
def quantised(tmp_path):
    """A folder in float8 whose sizes are no multiples of the blocks, and the tensors that it stands for."""
    write_model(tmp_path / "hf", num_hidden_layers=1, intermediate_size=20, hidden_size=24)
    return quantise(tmp_path / "hf")


def test_float8_weights_are_multiplied_by_the_scales_of_their_blocks(tmp_path, quantised):
    again = there_and_back(tmp_path)
    assert set(again) == set(quantised)
    assert all(torch.equal(again[name], tensor) for name, tensor in quantised.items())
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert "quantization_config" not in config, "what was written is not quantised"


def test_a_folder_in_float8_is_compared_by_what_it_stands_for_but_with_another_by_its_bytes(tmp_path, quantised):
    there_and_back(tmp_path)
    hf = tmp_path / "hf"
    for other in ("megatron", "again"):
        for pair in ((hf, tmp_path / other), (tmp_path / other, hf)):
            difference = diff_checkpoints(*pair)
            assert difference.is_equal
            assert difference.num_equal == len(quantised)
    shutil.copytree(hf, tmp_path / "other")
    tensors = load_file(hf / WEIGHTS)
    tensors["model.layers.0.mlp.up_proj.weight_scale_inv"][0, 0] *= 2
    save_file(tensors, tmp_path / "other" / WEIGHTS)
    (found,) = diff_checkpoints(hf, tmp_path / "other").tensors
    assert found.name == "model.layers.0.mlp.up_proj.weight_scale_inv"


def test_blocks_of_128_are_scaled_where_they_meet():
    weight = torch.ones(130, 300).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    full = dequantized(weight, scales, (128, 128), "bfloat16", "w")
    assert full.dtype == torch.bfloat16
    corners = [(0, 0), (127, 127), (127, 128), (127, 299), (128, 127), (128, 128), (129, 256)]
    assert [full[at].item() for at in corners] == [1, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("changes", "message"), [
    ({"quant_method": "awq", "bits": 4}, "expected quant_method fp8 .* got 'awq' with None"),
    ({"quant_method": "fp8"}, "expected quant_method fp8 with a weight_block_size of two numbers"),
    ({"quant_method": "fp8", "weight_block_size": [0, 16]}, r"weight_block_size: expected two positive integers"),
    ({"quant_method": "fp8", "weight_block_size": [8, 16]}, r"down_proj\.weight .*expected scales of shape \(3, 2\)"),
    (None, r"down_proj\.weight is float8, but config\.json has no quantization_config"),
])  # fmt: skip
def test_a_quantisation_that_is_not_by_blocks_or_has_other_scales_is_refused(tmp_path, quantised, changes, message):
    config = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, "quantization_config": changes}))
    with pytest.raises(CheckpointError, match=message):
        Unquantized(HFCheckpoint(tmp_path / "hf"))


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "auto", 16])
def test_float8_weights_become_no_dtype_but_a_larger_float(tmp_path, quantised, dtype):
    config = json.loads((tmp_path / "hf/config.json").read_text())
    for key in ("dtype", "torch_dtype"):
        del config["dtype"]
        config[key] = dtype
        (tmp_path / "hf/config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=rf"config\.json: {key}: expected one of .*, got {dtype!r}"):
            Unquantized(HFCheckpoint(tmp_path / "hf"))


def test_a_float8_weight_without_its_scales_is_named(tmp_path, quantised):
    tensors = load_file(tmp_path / "hf" / WEIGHTS)
    del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, tmp_path / "hf" / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"there is no model\.layers\.0\.mlp\.up_proj\.weight_scale_inv"):
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
