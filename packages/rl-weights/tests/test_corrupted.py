"""400 corrupted inputs of conversions: each gives an error that names what is wrong, and leaves no output."""

import json
import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folder import write_model

from rl_weights import CheckpointError, convert_hf_to_torch_dist, convert_torch_dist_to_hf
from rl_weights.torch_dist.names import METADATA_FILE
from rl_weights.torch_dist.reader import _read_metadata
from rl_weights.torch_dist.writer import pickle_metadata

NUM_EACH = 14


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """One model as shards in Hugging Face format and as torch_dist."""
    folder = tmp_path_factory.mktemp("pristine")
    write_model(folder / "single", num_hidden_layers=2)
    convert_hf_to_torch_dist(folder / "single", folder / "megatron")
    convert_torch_dist_to_hf(folder / "megatron", folder / "single", folder / "hf", max_shard_bytes=30_000)
    return folder


def a_shard(folder, rng):
    return rng.choice(sorted(folder.glob("*.safetensors")))


def header_of(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def edit_header(file, rng, edit):
    """Changes the entry of one tensor in the header of a shard, and returns the tensor's name."""
    header, rest = header_of(file.read_bytes())
    name = rng.choice([name for name in header if name != "__metadata__"])
    edit(header, name)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return name


def edit_json(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


# Each of these damages a model folder in Hugging Face format and returns what the error must name.


def shard_truncated(folder, rng):
    file = a_shard(folder, rng)
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    return file.name


def shard_missing(folder, rng):
    file = a_shard(folder, rng)
    file.unlink()
    return file.name


def header_length_wrong(folder, rng):
    file = a_shard(folder, rng)
    file.write_bytes(rng.randrange(1, 2**64).to_bytes(8, "little") + file.read_bytes()[8:])
    return file.name


def header_not_json(folder, rng):
    file = a_shard(folder, rng)
    content = bytearray(file.read_bytes())
    content[8 + rng.randrange(10)] = 0xFF
    file.write_bytes(content)
    return file.name


def shape_in_header_too_large(folder, rng):
    file = a_shard(folder, rng)
    edit_header(file, rng, lambda header, name: header[name]["shape"].append(rng.randrange(2, 9)))
    return file.name


def shape_in_header_wrong(folder, rng):
    """Another shape of as many elements, which only config.json contradicts."""
    return edit_header(a_shard(folder, rng), rng, lambda header, name: header[name]["shape"].insert(0, 1))


def offsets_in_header_wrong(folder, rng):
    file = a_shard(folder, rng)
    edit_header(file, rng, lambda header, name: header[name]["data_offsets"].reverse())
    return file.name


def dtype_in_header_unknown(folder, rng):
    file = a_shard(folder, rng)
    edit_header(file, rng, lambda header, name: header[name].update(dtype=rng.choice(["F7", "", "X"])))
    return file.name


def tensor_in_float8_without_scales(folder, rng):
    file = a_shard(folder, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    save_file({**tensors, name: tensors[name].to(torch.float8_e4m3fn)}, file)
    return name


def tensor_missing(folder, rng):
    file = a_shard(folder, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    save_file({other: tensors[other] for other in tensors if other != name}, file)
    return name


def tensor_and_its_entry_missing(folder, rng):
    name = tensor_missing(folder, rng)
    edit_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].pop(name))
    return name


def tensor_that_no_rule_covers(folder, rng):
    file = a_shard(folder, rng)
    name = f"model.layers.{rng.randrange(99)}.self_attn.sinks"
    save_file({**load_file(file), name: torch.zeros(rng.randrange(1, 9))}, file)
    edit_json(folder / "model.safetensors.index.json", lambda index: index["weight_map"].update({name: file.name}))
    return name


def tensor_of_another_shape(folder, rng):
    file = a_shard(folder, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    save_file({**tensors, name: tensors[name][:-1].clone()}, file)
    return name


def tensor_with_a_nan(folder, rng):
    file = a_shard(folder, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    flat = tensors[name].view(-1)
    flat[rng.randrange(flat.numel())] = rng.choice([float("nan"), float("inf"), float("-inf")])
    save_file(tensors, file)
    return name


def index_not_json(folder, rng):
    file = folder / "model.safetensors.index.json"
    text = file.read_text()
    file.write_text(text[: rng.randrange(len(text) - 3)])
    return file.name


def index_names_another_file(folder, rng):
    def edit(index):
        name = rng.choice(sorted(index["weight_map"]))
        index["weight_map"][name] = rng.choice(["model-00099-of-00099.safetensors", "../x.safetensors", 7, None])

    edit_json(folder / "model.safetensors.index.json", edit)
    return "model.safetensors.index.json"


def config_not_json(folder, rng):
    file = folder / "config.json"
    text = file.read_text()
    file.write_text(text[: rng.randrange(len(text) - 3)])
    return "config.json"


def config_lacks_a_size(folder, rng):
    key = rng.choice(["architectures", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"])
    edit_json(folder / "config.json", lambda config: config.pop(key))
    return key


def config_of_another_size(folder, rng):
    key = rng.choice(["hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "head_dim"])
    edit_json(folder / "config.json", lambda config: config.update({key: config[key] + rng.choice([-1, 1])}))
    return "model."  # the name of a tensor that does not fit


def config_of_a_size_without_end(folder, rng):
    edits = [
        {"num_hidden_layers": 10 ** rng.randrange(6, 400)},
        {"architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 24, "num_experts": 10**8},
        {"num_hidden_layers": 10**9, "mlp_only_layers": [], "num_experts": 2},
        {"num_attention_heads": 10**9, "num_key_value_heads": 10**9},
        {"hidden_size": 10**400},
        {"vocab_size": 10**400},
        {"intermediate_size": 10**400},
    ]
    edit = edits[rng.randrange(len(edits))]
    edit_json(folder / "config.json", lambda config: config.update(edit))
    keys = [key for key in ("num_hidden_layers", "num_experts") if key in edit]
    return keys[0] if keys else "model."


# The same for a torch_dist checkpoint.


def edit_metadata(folder, edit):
    file = folder / "release" / METADATA_FILE
    metadata = _read_metadata(folder / "release")
    found = edit(metadata)
    file.write_bytes(pickle_metadata(metadata))
    return found


def data_truncated(folder, rng):
    file = folder / "release/__0_0.distcp"
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size - 3000)])
    return file.name


def data_missing(folder, rng):
    (folder / "release/__0_0.distcp").unlink()
    return "__0_0.distcp"


def part_without_its_magic(folder, rng):
    """The first bytes of a part's container are overwritten."""
    metadata = _read_metadata(folder / "release")
    index = rng.choice([index for index in metadata.storage_data if index.offset is not None])
    file, start = folder / "release/__0_0.distcp", metadata.storage_data[index].offset
    content = bytearray(file.read_bytes())
    end = start + metadata.storage_data[index].length
    content[start:end] = rng.randbytes(end - start)
    file.write_bytes(content)
    return index.fqn


def metadata_truncated(folder, rng):
    file = folder / "release" / METADATA_FILE
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size - 1)])
    return METADATA_FILE


def metadata_of_noise(folder, rng):
    (folder / "release" / METADATA_FILE).write_bytes(rng.randbytes(rng.randrange(2000)))
    return METADATA_FILE


def part_without_a_place(folder, rng):
    def edit(metadata):
        index = rng.choice([index for index in metadata.storage_data if index.offset is not None])
        del metadata.storage_data[index]
        return index.fqn

    return edit_metadata(folder, edit)


def part_without_an_entry(folder, rng):
    def edit(metadata):
        keys = [key for key, entry in metadata.state_dict_metadata.items() if hasattr(entry, "chunks")]
        key = rng.choice(keys)
        chunks = metadata.state_dict_metadata[key].chunks
        del chunks[rng.randrange(len(chunks))]
        return key.removeprefix("decoder.layers.")

    return edit_metadata(folder, edit)


def key_missing(folder, rng):
    def edit(metadata):
        keys = [key for key, entry in metadata.state_dict_metadata.items() if hasattr(entry, "chunks")]
        key = rng.choice(keys)
        del metadata.state_dict_metadata[key]
        return key.removeprefix("decoder.layers.")

    return edit_metadata(folder, edit)


def backend_unknown(folder, rng):
    file = folder / "release/metadata.json"
    file.write_text(rng.choice(["{", "[]", "{}", '{"sharded_backend": "zarr"}', "7", ""]))
    return "metadata.json"


def tracker_wrong(folder, rng):
    file = folder / "latest_checkpointed_iteration.txt"
    text = rng.choice(["", "latest", "-3", str(rng.randrange(10**6)), "release/../x"])
    file.write_text(text)
    return f"iter_{int(text):07d}" if text.isdecimal() else file.name


OF_HF = [
    shard_truncated, shard_missing, header_length_wrong, header_not_json, shape_in_header_too_large,
    shape_in_header_wrong, offsets_in_header_wrong, dtype_in_header_unknown, tensor_in_float8_without_scales,
    tensor_missing, tensor_and_its_entry_missing, tensor_that_no_rule_covers, tensor_of_another_shape,
    tensor_with_a_nan, index_not_json, index_names_another_file, config_not_json, config_lacks_a_size,
    config_of_another_size, config_of_a_size_without_end,
]  # fmt: skip
OF_TORCH_DIST = [
    data_truncated, data_missing, part_without_its_magic, metadata_truncated, metadata_of_noise, part_without_a_place,
    part_without_an_entry, key_missing, backend_unknown, tracker_wrong,
]  # fmt: skip


def test_there_are_400_inputs():
    assert (len(OF_HF) + len(OF_TORCH_DIST)) * NUM_EACH >= 400


@pytest.mark.parametrize("damage", OF_HF, ids=lambda damage: damage.__name__)
def test_a_corrupted_model_folder_is_refused_by_name_and_leaves_no_output(pristine, tmp_path, damage):
    for seed in range(NUM_EACH):
        source, out = tmp_path / f"hf_{seed}", tmp_path / "out"
        shutil.copytree(pristine / "hf", source)
        name = damage(source, random.Random(f"{damage.__name__}/{seed}"))
        with pytest.raises(CheckpointError, match=re.escape(name)):
            convert_hf_to_torch_dist(source, out, require_finite=True)
        assert not list(tmp_path.glob("*out*"))
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", OF_TORCH_DIST, ids=lambda damage: damage.__name__)
def test_a_corrupted_torch_dist_checkpoint_is_refused_by_name_and_leaves_no_output(pristine, tmp_path, damage):
    for seed in range(NUM_EACH):
        source, out = tmp_path / f"megatron_{seed}", tmp_path / "out"
        shutil.copytree(pristine / "megatron", source)
        name = damage(source, random.Random(f"{damage.__name__}/{seed}"))
        with pytest.raises(CheckpointError, match=re.escape(name)):
            convert_torch_dist_to_hf(source, pristine / "hf", out, require_finite=True)
        assert not list(tmp_path.glob("*out*"))
        assert not list(tmp_path.glob(".*"))


def test_a_config_of_a_size_without_end_is_refused_by_name_also_on_the_way_back(pristine, tmp_path):
    for seed in range(NUM_EACH):
        source, out = tmp_path / f"hf_{seed}", tmp_path / "out"
        shutil.copytree(pristine / "hf", source)
        name = config_of_a_size_without_end(source, random.Random(seed))
        with pytest.raises(CheckpointError, match=r"weight: expected shape" if name == "model." else name):
            convert_torch_dist_to_hf(pristine / "megatron", source, out)
        assert not list(tmp_path.glob("*out*"))
