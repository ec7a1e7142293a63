import json
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from tiny_folder import CONFIG, write_model

from rl_weights import (
    CheckpointError,
    HFCheckpoint,
    ParallelLayout,
    TorchDistCheckpoint,
    convert_hf_to_torch_dist,
    convert_torch_dist_to_hf,
    diff_checkpoints,
    verify_checkpoint,
    write_hf,
)
from rl_weights.hf.fp8 import Unquantized
from rl_weights.new_folder import new_folder


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_there_and_back_is_exact_to_the_bit(tmp_path, dtype, is_tied):
    tensors = write_model(tmp_path / "hf", dtype=dtype, tie_word_embeddings=is_tied)
    there = convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
    back = convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "hf", tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype == dtype
        assert torch.equal(again[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert back.num_bytes == sum(tensor.nbytes for tensor in tensors.values())
    num_padding_bytes = (128 - 67) * 32 * dtype.itemsize * (1 if is_tied else 2)
    assert there.num_bytes == back.num_bytes + num_padding_bytes
    assert back.num_tensors == len(tensors)


def test_nan_payloads_and_signed_zeros_survive(tmp_path):
    odd = torch.zeros(32)
    odd[:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    odd.view(torch.int32)[3] = 0x7FC12345
    write_model(tmp_path / "hf", num_hidden_layers=1)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    rewrite(tmp_path / "hf", {**tensors, "model.norm.weight": odd})
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
    convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "hf", tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")["model.norm.weight"]
    assert torch.equal(again.view(torch.int32), odd.view(torch.int32))
    report = verify_checkpoint(tmp_path / "again", require_finite=True)
    assert report.problems == ("model.norm.weight: NaN or infinite values: 3",)


def rewrite(folder, tensors):
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("multiple", "tp_size", "rows"), [(1, 1, 67), (1, 2, 68), (16, 2, 96), (128, 1, 128)])
def test_the_vocabulary_is_padded_for_the_ranks(tmp_path, multiple, tp_size, rows):
    tensors = write_model(tmp_path / "hf", num_hidden_layers=1)
    convert_hf_to_torch_dist(
        tmp_path / "hf",
        tmp_path / "megatron",
        make_vocab_size_divisible_by=multiple,
        layout=ParallelLayout(tensor=tp_size),
    )
    embedding = TorchDistCheckpoint(tmp_path / "megatron").read("embedding.word_embeddings.weight")
    assert embedding.shape == (rows, 32)
    assert torch.equal(embedding[:67], tensors["model.embed_tokens.weight"])
    assert not embedding[67:].any()


def test_the_layout_is_that_of_a_release(tmp_path):
    write_model(tmp_path / "hf")
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
    assert (tmp_path / "megatron/latest_checkpointed_iteration.txt").read_text() == "release"
    assert contents(tmp_path / "megatron/release") == [
        ".metadata", "__0_0.distcp", "metadata.json", "rl_weights_manifest.json",
    ]  # fmt: skip
    assert contents(tmp_path) == ["hf", "megatron"]
    checkpoint = TorchDistCheckpoint(tmp_path / "megatron")
    assert checkpoint.iteration is None
    assert checkpoint.specs["decoder.layers.3.self_attention.linear_qkv.layer_norm_weight"][2] == (32,)
    assert checkpoint.specs["decoder.layers.3.mlp.linear_fc1.layer_norm_weight"][2] == (32,)
    assert checkpoint.specs["decoder.layers.0.self_attention.linear_qkv.weight"][2] == (128, 32)


def test_shards_have_an_index_and_everything_but_weights_is_carried_over(tmp_path):
    write_model(tmp_path / "hf")
    for name in ("pytorch_model.bin", "model.safetensors.index.json.bak", ".hidden"):
        (tmp_path / "hf" / name).write_bytes(b"x")
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
    convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "hf", tmp_path / "again", max_shard_bytes=30_000)
    shards = sorted((tmp_path / "again").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(shard.stat().st_size < 35_000 for shard in shards)
    index = json.loads((tmp_path / "again/model.safetensors.index.json").read_text())
    held = {name: shard.name for shard in shards for name in load_file(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for shard in shards for tensor in load_file(shard).values()
    )
    assert diff_checkpoints(tmp_path / "hf", tmp_path / "again").is_equal
    others = set(contents(tmp_path / "again")) - {shard.name for shard in shards}
    assert others == {
        "chat_template.jinja", "config.json", "model.safetensors.index.json", "model.safetensors.index.json.bak",
        "rl_weights_manifest.json", "tokenizer.json",
    }  # fmt: skip
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "hf/config.json").read_bytes()


def test_config_json_says_the_dtype_that_was_written(tmp_path):
    write_model(tmp_path / "half", dtype=torch.bfloat16)
    write_model(tmp_path / "full", dtype=torch.float32)
    convert_hf_to_torch_dist(tmp_path / "full", tmp_path / "megatron")
    convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "half", tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text()) == {**CONFIG, "dtype": "float32"}


def test_a_tied_model_may_hold_its_output_layer_again_if_it_is_the_same(tmp_path):
    plain = write_model(tmp_path / "plain", tie_word_embeddings=True)
    embedding = plain["model.embed_tokens.weight"]
    write_model(tmp_path / "same", tie_word_embeddings=True, extra={"lm_head.weight": embedding.clone()})
    convert_hf_to_torch_dist(tmp_path / "same", tmp_path / "megatron")
    convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "same", tmp_path / "again")
    assert set(HFCheckpoint(tmp_path / "again").specs) == set(plain)
    write_model(tmp_path / "other", tie_word_embeddings=True, extra={"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight, but their values"):
        convert_hf_to_torch_dist(tmp_path / "other", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_tensor_is_read_once_for_all_parts_into_which_it_is_cut(tmp_path, monkeypatch):
    write_model(tmp_path / "hf")
    read, times = Unquantized.read, Counter()

    def counted(self, name):
        times[name] += 1
        return read(self, name)

    monkeypatch.setattr(Unquantized, "read", counted)
    layout = ParallelLayout(tensor=2, pipeline=2)
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "out", layout=layout, require_finite=True)
    assert set(times.values()) == {1}
    assert set(times) == set(HFCheckpoint(tmp_path / "hf").specs)


def test_progress_ends_at_all_bytes(tmp_path):
    write_model(tmp_path / "hf")
    calls = []

    def progress(done, total):
        assert threading.current_thread() is threading.main_thread()
        calls.append((done, total))

    report = convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron", progress=progress)
    assert calls[-1] == (report.num_bytes, report.num_bytes)
    assert len(calls) == report.num_tensors + 4, "gate and up are written one after the other"
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    report = convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / "hf", tmp_path / "again", progress=progress)
    assert len(calls) == report.num_tensors
    assert calls[-1] == (report.num_bytes, report.num_bytes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": {"pipeline": 3}}, "4 layers do not divide over 3 pipeline stages"),
        ({"layout": {"pipeline": 2, "first_stage_layers": 4}}, r"4 layers do not divide over 2 .* \{0: 4\} are given"),
        ({"layout": {"pipeline": 2, "first_stage_layers": 1, "last_stage_layers": 2}}, "do not divide over 2 pipeline"),
        ({"layout": {"pipeline": 2, "first_stage_layers": 0, "last_stage_layers": 4}}, "do not divide over 2 pipeline"),
        ({"layout": {"first_stage_layers": 2}}, r"4 layers do not divide over 1 .* \{0: 2\} are given"),
        ({"layout": {"tensor": 4}}, "2 key/value groups do not divide over 4 ranks"),
        ({"layout": {"expert": 2}}, "0 experts do not divide over 2 expert-parallel ranks"),
        ({"layout": {"tensor": 0}}, "parallel sizes: expected at least 1, got TP 0 and PP 1"),
        ({"layout": {"pipeline": 0}}, "parallel sizes: expected at least 1, got TP 1 and PP 0"),
        ({"make_vocab_size_divisible_by": -1}, "vocabulary padding: expected a multiple of at least 1, got -1"),
    ],
)
def test_layouts_that_the_model_cannot_have_are_refused(tmp_path, settings, message):
    write_model(tmp_path / "hf")

    def convert():
        layout = {"layout": ParallelLayout(**settings["layout"])} if "layout" in settings else settings
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron", **layout)

    with pytest.raises(CheckpointError, match=message):
        convert()
    assert contents(tmp_path) == ["hf"]


def test_nothing_is_overwritten(tmp_path):
    write_model(tmp_path / "hf")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"taken: exists already, and nothing is overwritten"):
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "taken")
    assert contents(tmp_path / "taken") == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "empty")
    assert verify_checkpoint(tmp_path / "empty").is_whole


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    write_model(tmp_path / "hf", num_hidden_layers=2)
    convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
    for changes, message in (
        ({"num_hidden_layers": 3}, r"8 of the model's 27 tensors are missing: decoder\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"no rule covers 8 tensors: decoder\.layers\.1\."),
        ({"num_hidden_layers": 2, "hidden_size": 16}, r"embedding\.word_embeddings\.weight: expected shape"),
        ({"num_hidden_layers": 2, "vocab_size": 129}, r"expected shape \('>= 129', 32\).*got \(128, 32\)"),
        ({"num_hidden_layers": 2, "tie_word_embeddings": True}, r"no rule covers 1 tensors: output_layer\.weight"),
    ):
        name = "_".join(map(str, changes.values()))
        write_model(tmp_path / name, **changes)
        with pytest.raises(CheckpointError, match=message):
            convert_torch_dist_to_hf(tmp_path / "megatron", tmp_path / name, tmp_path / "again")
        assert not (tmp_path / "again").exists()


SLOW_CONVERSION = """
import sys, time
import rl_weights

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.2)

getattr(rl_weights, sys.argv[1])(*sys.argv[2:], progress=progress)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("convert", [convert_hf_to_torch_dist, convert_torch_dist_to_hf])
def test_an_interrupted_conversion_leaves_nothing_that_looks_whole_and_the_next_one_succeeds(tmp_path, convert, how):
    write_model(tmp_path / "hf")
    arguments = [tmp_path / "hf", tmp_path / "out"]
    if convert is convert_torch_dist_to_hf:
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron")
        arguments = [tmp_path / "megatron", *arguments]
    before = contents(tmp_path)
    command = [sys.executable, "-c", SLOW_CONVERSION, convert.__name__, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        with pytest.raises(CheckpointError, match="another process is writing it"):
            convert(*arguments)
        process.send_signal(how)
        process.wait(60)
    assert process.returncode != 0
    assert contents(tmp_path) == [*([".out.incomplete"] if how is signal.SIGKILL else []), *before]
    with pytest.raises(CheckpointError, match="no such folder"):
        verify_checkpoint(tmp_path / "out")
    convert(*arguments)
    assert contents(tmp_path) == [*before, "out"]
    assert verify_checkpoint(tmp_path / "out").is_whole


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_or_an_interrupt_leaves_nothing(tmp_path, error):
    def progress(done, total):
        raise error

    write_model(tmp_path / "hf")
    with pytest.raises(error):
        convert_hf_to_torch_dist(tmp_path / "hf", tmp_path / "megatron", progress=progress)
    assert contents(tmp_path) == ["hf"]


def test_what_the_disk_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(CheckpointError, match=r"file/target: not written: .*Not a directory"),
        new_folder(tmp_path / "file/target"),
    ):
        pass


def test_a_model_folder_can_be_written_from_any_tensors(tmp_path):
    tensors = write_model(tmp_path / "hf")
    specs = list(HFCheckpoint(tmp_path / "hf").specs.values())
    given = [(name, tensors[name]) for name, _, _ in specs]
    write_hf(tmp_path / "out", specs, given, hf_checkpoint=tmp_path / "hf", max_shard_bytes=50_000)
    assert diff_checkpoints(tmp_path / "hf", tmp_path / "out").is_equal
    assert verify_checkpoint(tmp_path / "out").has_manifest
    for wrong, message in (
        (given[:-1], f"the tensors end before {specs[-1][0]}"),
        ([*given, given[0]], f"expected no more tensors, got {specs[0][0]}"),
        ([given[1], *given[1:]], f"expected {specs[0][0]}, got {specs[1][0]}"),
        ([(given[0][0], given[0][1].half()), *given[1:]], r"expected \('float32', .*got \('float16'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            write_hf(tmp_path / "wrong", specs, wrong, hf_checkpoint=tmp_path / "hf")
        assert not (tmp_path / "wrong").exists()
