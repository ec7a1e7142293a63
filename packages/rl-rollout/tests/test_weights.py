import json
import struct

import numpy as np
import pytest
import xxhash

from rl_rollout import EngineError
from rl_rollout.weights import IncomingWeights, checkpoint_shapes, checksum, flat_bytes, require_checksum

EXPECTED = {"model.norm.weight": (2,), "model.embed_tokens.weight": (3, 2)}


def bucket(*specs):
    return list(specs), sum(4 * int(np.prod(shape)) for _, _, shape in specs)


def receive(incoming, *specs):
    incoming.check(*bucket(*specs))
    incoming.add(specs)


@pytest.fixture
def incoming():
    return IncomingWeights("engine 0", 3, EXPECTED)


def test_a_whole_update_is_accepted_with_or_without_the_tied_output_layer(incoming):
    receive(incoming, ("model.norm.weight", "float32", (2,)), ("lm_head.weight", "float32", (3, 2)))
    with pytest.raises(EngineError, match="expected 3 tensors, got 2"):
        incoming.finish(3, 3)
    receive(incoming, ("model.embed_tokens.weight", "float32", (3, 2)))
    incoming.finish(3, 3)


def test_a_bucket_is_counted_only_once_it_is_loaded(incoming):
    specs = ("model.norm.weight", "float32", (2,))
    incoming.check(*bucket(specs))
    receive(incoming, specs)
    with pytest.raises(EngineError, match=r"bucket 1 of version 3 .*model\.norm\.weight came twice"):
        incoming.check(*bucket(specs))


def test_the_checksum_is_xxh3_of_the_sums_by_column_and_by_row_and_of_the_rest():
    # A row of ones and three bytes: every column sums to 1, the row to 4096.
    buffer = np.concatenate([np.ones(4096, "<i8").view(np.uint8), np.array([7, 8, 9], np.uint8)])
    content = (
        np.append(np.ones(4096, "<i8"), 4096).astype("<i8").tobytes() + b"\x07\x08\x09" + (32771).to_bytes(8, "little")
    )
    assert checksum(buffer) == xxhash.xxh3_64_hexdigest(content)


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        ([("model.norm.weigth", "float32", (2,))], "has no tensor model.norm.weigth"),
        ([("model.norm.weight", "float32", (3,))], r"shape \(3,\), expected \(2,\)"),
        ([("model.norm.weight", "float31", (2,))], "dtype 'float31'"),
        ([("model.norm.weight", "float32", (2,))] * 2, "came twice"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(incoming, specs, problem):
    with pytest.raises(EngineError, match=rf"engine 0: bucket 0 of version 3.*{problem}"):
        incoming.check(*bucket(*specs))


def test_a_damaged_or_short_bucket_is_refused(incoming):
    buffer = np.zeros(8, np.uint8)
    with pytest.raises(EngineError, match=r"here: expected checksum .*, got"):
        require_checksum("here", buffer + 1, checksum(buffer))
    with pytest.raises(EngineError, match="take 8 bytes, got 7"):
        incoming.check([("model.norm.weight", "float32", (2,))], 7)


def test_an_incomplete_update_is_refused(incoming):
    receive(incoming, ("model.norm.weight", "float32", (2,)))
    with pytest.raises(EngineError, match="expected 2 tensors, got 1"):
        incoming.finish(3, 2)
    with pytest.raises(EngineError, match=r"did not come: model\.embed_tokens.weight"):
        incoming.finish(3, 1)
    with pytest.raises(EngineError, match="the update that ends is of version 4"):
        incoming.finish(4, 1)


def test_buffers_that_are_not_flat_bytes_are_refused():
    with pytest.raises(EngineError, match="flat uint8 buffer, got float32"):
        flat_bytes(np.zeros(3, np.float32))


def write_header(path, name, shape):
    header = json.dumps({"__metadata__": {}, name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())


def test_shapes_are_read_from_safetensors_headers(tmp_path):
    assert checkpoint_shapes(tmp_path) is None
    for number, (name, shape) in enumerate(EXPECTED.items()):
        write_header(tmp_path / f"model-{number}.safetensors", name, shape)
    assert checkpoint_shapes(tmp_path) == EXPECTED
    files = {name: f"model-{number}.safetensors" for number, name in enumerate(EXPECTED)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    write_header(tmp_path / "consolidated.safetensors", "tok_embeddings.weight", (3, 2))
    assert checkpoint_shapes(tmp_path) == EXPECTED, "a file that the index does not name is no part of the model"
