"""Reading, inspecting, comparing and verifying, also of what is damaged."""

import json
import math
import pickle
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folder import write_model
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.utils._python_dispatch import TorchDispatchMode

from rl_weights import (
    CheckpointError,
    HFCheckpoint,
    TorchDistCheckpoint,
    convert_hf_to_torch_dist,
    convert_torch_dist_to_hf,
    diff_checkpoints,
    inspect_checkpoint,
    read_manifest,
    verify_checkpoint,
)
from rl_weights.cli import main
from rl_weights.diff import _distance
from rl_weights.manifest import MANIFEST_FILE
from rl_weights.torch_dist.reader import _read_metadata


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """The same model in a folder of one file, in torch_dist, and in a folder of shards."""
    folder = tmp_path_factory.mktemp("pristine")
    write_model(folder / "hf", num_hidden_layers=2)
    convert_hf_to_torch_dist(folder / "hf", folder / "megatron")
    convert_torch_dist_to_hf(folder / "megatron", folder / "hf", folder / "shards", max_shard_bytes=30_000)
    return folder


@pytest.fixture
def copies(pristine, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(pristine, tmp_path / "copies")
    return tmp_path / "copies"


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 0x10
    file.write_bytes(content)


def test_inspect_tells_what_is_there_in_both_formats(pristine):
    hf, megatron = inspect_checkpoint(pristine / "hf"), inspect_checkpoint(pristine / "megatron")
    assert (hf.format, hf.architecture, hf.iteration, hf.has_manifest) == ("hf", "Qwen3ForCausalLM", None, False)
    assert (megatron.format, megatron.architecture, megatron.iteration) == ("torch_dist", None, None)
    assert megatron.has_manifest
    assert megatron.path.endswith("megatron/release")
    assert hf.num_model_bytes == 4 * hf.num_parameters
    assert megatron.num_parameters == hf.num_parameters + 2 * (128 - 67) * 32
    norm = next(tensor for tensor in hf.tensors if tensor.name == "model.norm.weight")
    assert (norm.dtype, norm.shape, norm.num_bytes, norm.num_parts) == ("float32", (32,), 128, 1)


def test_diff_finds_the_same_model_in_every_format(pristine):
    for first in ("hf", "megatron", "shards"):
        for second in ("hf", "megatron", "shards"):
            difference = diff_checkpoints(pristine / first, pristine / second)
            assert difference.is_equal
            assert difference.num_equal == (19 if first == second == "megatron" else 25)


def test_diff_tells_what_differs(pristine, tmp_path):
    tensors = load_file(pristine / "hf/model.safetensors")
    shutil.copytree(pristine / "hf", tmp_path / "other")
    tensors["model.norm.weight"][:2] += torch.tensor([0.5, -1.5])
    tensors["lm_head.weight"] = tensors["lm_head.weight"].double()
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(3, 3)
    tensors["new"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "other/model.safetensors")
    difference = diff_checkpoints(pristine / "hf", tmp_path / "other")
    found = {tensor.name: tensor for tensor in difference.tensors}
    assert difference.num_equal == 21
    assert len(found) == 5
    norm = found["model.norm.weight"]
    assert (norm.what, norm.max_abs) == ("values", 1.5)
    assert norm.mean_abs == pytest.approx(2.0 / 32)
    assert found["lm_head.weight"].what == "dtype float32 and float64"
    assert found["lm_head.weight"].max_abs == 0.0
    assert found["model.layers.0.mlp.down_proj.weight"].what == "shape (32, 48) and (3, 3)"
    assert found["model.embed_tokens.weight"].what == "missing in the second"
    assert found["new"].what == "missing in the first"


class LargestInFloat64(TorchDispatchMode):
    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            self.num_bytes = max(self.num_bytes, out.nbytes)
        return out


def test_differences_of_a_large_tensor_are_computed_piece_by_piece():
    first = torch.zeros(3 * 2**20 + 5, dtype=torch.bfloat16)
    second = first.clone()
    second[0], second[2**20], second[-1] = 0.5, -1.0, 1.5
    with LargestInFloat64() as largest:
        assert _distance(first, second) == (1.5, 3.0 / first.numel())
    assert 0 < largest.num_bytes <= 8 * 2**20
    second[2**21] = math.nan
    assert all(map(math.isnan, _distance(first, second)))
    assert _distance(first[:0], first[:0]) == (0.0, 0.0)


def test_verify_names_the_tensor_and_the_file_of_a_flipped_bit(copies):
    shard = sorted((copies / "shards").glob("*.safetensors"))[1]
    flip(shard, shard.stat().st_size - 1)
    report = verify_checkpoint(copies / "shards")
    assert len(report.problems) == 1
    assert shard.name in report.problems[0]
    assert "checksum" in report.problems[0]
    assert verify_checkpoint(copies / "hf").is_whole
    assert not verify_checkpoint(copies / "hf").has_manifest
    data = copies / "megatron/release/__0_0.distcp"
    content = data.read_bytes()
    embedding = TorchDistCheckpoint(copies / "megatron").read("embedding.word_embeddings.weight").numpy().tobytes()
    flip(data, content.index(embedding) + 10)
    report = verify_checkpoint(copies / "megatron")
    assert len(report.problems) == 1
    assert "__0_0.distcp" in report.problems[0]
    assert "embedding.word_embeddings.weight" in report.problems[0]


def test_verify_lists_every_file_of_tensors_that_cannot_be_read_and_looks_at_the_others(copies, capsys):
    shards = sorted((copies / "shards").glob("*.safetensors"))
    shards[0].write_bytes(shards[0].read_bytes()[:-7])
    shards[1].unlink()
    shards[2].write_bytes(b"")
    flip(shards[3], shards[3].stat().st_size - 1)
    problems = verify_checkpoint(copies / "shards").problems
    assert len(problems) == 5
    for number, words in enumerate(("truncated or damaged", "no such file", "truncated or damaged")):
        assert problems[number].startswith(f"{shards[number]}: {words}")
    assert "tensors of rl_weights_manifest.json were in files that cannot be read" in problems[3]
    assert problems[4].startswith(f"{shards[3]}: ")
    single = copies / "hf/model.safetensors"
    single.write_bytes(single.read_bytes()[:-7])
    assert main(["verify", str(copies / "hf")]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{single}: truncated or damaged")
    assert last.endswith("only read: 1 problem")


def test_verify_notices_tensors_that_are_not_those_of_the_manifest(copies):
    tensors = load_file(copies / "hf/model.safetensors")
    shutil.copyfile(copies / "shards" / MANIFEST_FILE, copies / "hf" / MANIFEST_FILE)
    tensors["new"] = tensors.pop("model.norm.weight")
    save_file(tensors, copies / "hf/model.safetensors")
    problems = verify_checkpoint(copies / "hf").problems
    assert "model.safetensors.index.json: expected 2055 bytes" in problems[-1]  # the manifest is of shards
    assert set(problems[:-1]) == {
        f"model.norm.weight: in {MANIFEST_FILE}, but not there",
        f"new: not in {MANIFEST_FILE}",
    }


def test_a_manifest_of_another_version_is_refused(copies):
    file = copies / "shards" / MANIFEST_FILE
    manifest = read_manifest(copies / "shards")
    assert manifest is not None
    assert len(manifest.tensors) == 25
    content = json.loads(file.read_text())
    for changed, message in (
        ({**content, "schema_version": 1}, "expected schema_version 2 or 3, got 1"),
        ({**content, "more": 1}, "unknown field"),
        ({"tensors": []}, "schema_version"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            verify_checkpoint(copies / "shards")
    assert read_manifest(copies / "hf") is None


def test_verify_names_a_file_beside_the_weights_that_changed_or_is_gone_but_none_that_was_added(copies):
    hf = copies / "shards"
    (hf / "notes.md").write_text("added later")
    assert verify_checkpoint(hf).is_whole
    (hf / "tokenizer.json").write_text('{"version": "2.0"}')
    config = hf / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    (hf / "chat_template.jinja").unlink()
    problems = verify_checkpoint(hf).problems
    assert [problem.split(": ")[0] for problem in problems] == [
        str(hf / name) for name in ("chat_template.jinja", "config.json", "tokenizer.json")
    ]
    assert problems[0].endswith("got no such file")
    (copies / "megatron/release/metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (problem,) = verify_checkpoint(copies / "megatron").problems
    assert "release/metadata.json: expected " in problem


@pytest.mark.parametrize("key", ["common_state/shard_0_1", "decoder.layers.mlp.linear_fc1._extra_state/shard_1_2"])
def test_verify_names_an_object_of_a_torch_dist_checkpoint_that_changed(copies, key):
    manifest = read_manifest(copies / "megatron/release")
    assert manifest is not None
    (entry,) = [entry for entry in manifest.objects if entry.name == key]
    file, content = TorchDistCheckpoint(copies / "megatron").read_object(key)
    assert len(content) == entry.num_bytes
    flip(file, _read_metadata(file.parent).storage_data[MetadataIndex(key)].offset + 40)
    (problem,) = verify_checkpoint(copies / "megatron").problems
    assert problem.startswith(f"{file}: {key}: expected ")
    file.write_bytes(b"")
    assert any(key in problem and "truncated" in problem for problem in verify_checkpoint(copies / "megatron").problems)


def test_verify_names_a_header_that_changed_but_still_says_the_same(copies):
    file = min((copies / "shards").glob("*.safetensors"))
    flip(file, file.read_bytes()[:200].index(b'"pt"') + 1)
    (problem,) = verify_checkpoint(copies / "shards").problems
    assert problem.startswith(f"{file}: its header: expected ")


def test_a_manifest_of_before_is_read_and_what_it_cannot_tell_is_said(copies, capsys):
    file = copies / "shards" / MANIFEST_FILE
    content = json.loads(file.read_text())
    old = {"schema_version": 2, "tensors": content["tensors"]}
    file.write_text(json.dumps(old))
    (copies / "shards/tokenizer.json").write_text("other")
    report = verify_checkpoint(copies / "shards")
    assert (report.is_whole, report.has_manifest, report.is_manifest_of_all) == (True, True, False)
    assert main(["verify", str(copies / "shards")]) == 0
    assert "checksums of tensors compared, an older manifest has no others: whole" in capsys.readouterr().out
    outside = {"name": "../x", "num_bytes": 1, "checksum": ""}
    for changed, message in (
        ({**old, "schema_version": 3}, "files and objects: expected with schema_version 3 alone"),
        ({**content, "schema_version": 2}, "files and objects: expected with schema_version 3 alone"),
        ({**content, "files": [outside]}, r"expected the name of a file beside it, got '\.\./x'"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=message):
            read_manifest(copies / "shards")


def test_problems_of_a_model_folder_name_the_file(copies):
    def refused(message, folder="hf"):
        with pytest.raises(CheckpointError, match=message):
            HFCheckpoint(copies / folder)

    refused(r"nowhere/config\.json: no such file", "nowhere")
    shards = sorted((copies / "shards").glob("*.safetensors"))
    shards[2].rename(copies / "elsewhere")
    refused(rf"{shards[2].name}: no such file, but model\.safetensors\.index\.json names it", "shards")
    (copies / "elsewhere").rename(shards[2])
    index = copies / "shards/model.safetensors.index.json"
    whole_index = index.read_text()
    for name, message in (("../x.safetensors", "expected the name of a file beside it"), (3, "got 3")):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        refused(message, "shards")
    index.write_text(whole_index.replace('"model.norm.weight"', '"model.norm.width"'))
    refused(r"model\.norm\.weight, which .*index\.json does not say", "shards")
    index.write_text("{}")
    refused(r"index\.json: expected an object `weight_map`", "shards")
    weights = copies / "hf/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    refused(r"model\.safetensors: truncated or damaged")
    weights.unlink()
    refused(r"neither model\.safetensors nor model\.safetensors\.index\.json is there")
    (copies / "hf/config.json").write_text("{")
    refused(r"config\.json: not JSON")
    (copies / "hf/config.json").write_text("[]")
    refused(r"config\.json: expected a JSON object, got list")


def test_problems_of_a_torch_dist_checkpoint_name_the_file(copies):
    root = copies / "megatron"
    data, tracker = root / "release/__0_0.distcp", root / "latest_checkpointed_iteration.txt"
    whole = data.read_bytes()

    def refused(message):
        with pytest.raises(CheckpointError, match=message):
            convert_torch_dist_to_hf(root, copies / "hf", copies / "out")
        assert not (copies / "out").exists()

    data.write_bytes(whole[: len(whole) // 2])
    refused(r"__0_0\.distcp: (truncated|damaged)")
    data.unlink()
    refused(r"__0_0\.distcp: no such file")
    data.write_bytes(whole)
    tracker.write_text("12")
    refused(r"iter_0000012/\.metadata: no such file")
    tracker.write_text("latest")
    refused(r"latest_checkpointed_iteration\.txt: expected 'release' or an iteration, got 'latest'")
    tracker.write_bytes(b"\xff\xfe")
    refused(r"latest_checkpointed_iteration\.txt: expected 'release' or an iteration")
    tracker.write_text("release")
    (root / "release/metadata.json").write_text('{"sharded_backend": "zarr"}')
    refused("expected format torch_dist, got 'zarr'")
    (root / "release/metadata.json").unlink()
    refused(r"metadata\.json: incomplete checkpoint")


def test_metadata_that_would_run_code_is_refused(copies):
    class Evil:
        def __reduce__(self):
            return (open, (str(copies / "owned"), "w"))

    (copies / "megatron/release/.metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"\.metadata: damaged.*refused to load (io|_io)\.open"):
        TorchDistCheckpoint(copies / "megatron")
    assert not (copies / "owned").exists()


def test_metadata_that_names_more_bytes_than_there_can_be_is_refused(copies):
    (copies / "megatron/release/.metadata").write_bytes(b"\x80\x05\x8d" + b"\xff" * 8 + b".")
    with pytest.raises(CheckpointError, match=r"\.metadata: damaged.*exceeds"):
        TorchDistCheckpoint(copies / "megatron")


def test_a_changed_bit_of_metadata_is_a_named_error_or_changes_nothing_that_verify_does_not_see(copies):
    chooser = random.Random(5)
    file = copies / "megatron/release/.metadata"
    whole = file.read_bytes()
    messages = []
    for _ in range(150):
        position = chooser.randrange(len(whole))
        changed = whole[position] ^ (1 << chooser.randrange(8))
        file.write_bytes(whole[:position] + bytes([changed]) + whole[position + 1 :])
        try:
            inspect_checkpoint(copies / "megatron")
            verify_checkpoint(copies / "megatron")
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(copies) in message for message in messages)


def test_a_folder_of_neither_format_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="neither a model folder"):
        inspect_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect_checkpoint(tmp_path / "nowhere")


DAMAGEABLE = [
    ("hf", "model.safetensors"),
    ("hf", "config.json"),
    ("shards", "model.safetensors.index.json"),
    ("megatron", "release/.metadata"),
    ("megatron", "release/__0_0.distcp"),
    ("megatron", "release/metadata.json"),
]


@pytest.mark.parametrize(("kind", "file"), DAMAGEABLE)
def test_damage_anywhere_is_a_named_error_or_is_found_by_verify(pristine, tmp_path, kind, file):
    """Truncations and changed bytes at seeded places, more of them at the start of a file where its headers lie."""
    chooser = random.Random(file)
    shutil.copytree(pristine / kind, tmp_path / kind)
    target = tmp_path / kind / file
    whole = target.read_bytes()
    for attempt in range(25):
        out = tmp_path / f"out_{attempt}"
        position = chooser.randrange(min(len(whole), 2000 if attempt % 2 else len(whole)))
        if attempt % 5 == 0:
            target.write_bytes(whole[:position])
        else:
            target.write_bytes(whole[:position] + chooser.randbytes(1) + whole[position + 1 :])
        if _converts(tmp_path / kind, pristine / "hf", out):
            assert verify_checkpoint(out).is_whole
        else:
            assert not out.exists()


def _converts(source, hf, out):
    """Whether the conversion succeeds; any error but the one that the package promises is raised."""
    try:
        if (source / "latest_checkpointed_iteration.txt").exists():
            convert_torch_dist_to_hf(source, hf, out)
        else:
            convert_hf_to_torch_dist(source, out)
    except CheckpointError:
        return False
    return True
