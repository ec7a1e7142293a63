import json
import struct

import numpy as np
import pytest

from rl_rollout import EngineError
from rl_rollout.weights import IncomingWeights, checkpoint_shapes, checksum, flat_bytes

EXPECTED = {"model.norm.weight": (2,), "model.embed_tokens.weight": (3, 2)}


def bucket(*specs):
    buffer = np.zeros(sum(4 * int(np.prod(shape)) for _, _, shape in specs), np.uint8)
    return list(specs), buffer, checksum(buffer)


@pytest.fixture
def incoming():
    return IncomingWeights("engine 0", 3, EXPECTED)


def test_a_whole_update_is_accepted_with_or_without_the_tied_output_layer(incoming):
    incoming.check(*bucket(("model.norm.weight", "float32", (2,)), ("lm_head.weight", "float32", (3, 2))))
    incoming.check(*bucket(("model.embed_tokens.weight", "float32", (3, 2))))
    incoming.finish(3, 3)


def test_the_checksum_is_xxh3_of_64_bits():
    # Reference values of the XXH3 specification for an empty input and seed 0.
    assert checksum(np.zeros(0, np.uint8)) == "2d06800538d394c2"


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
    specs, buffer, good = bucket(("model.norm.weight", "float32", (2,)))
    with pytest.raises(EngineError, match=r"expected checksum .*, got"):
        incoming.check(specs, buffer + 1, good)
    with pytest.raises(EngineError, match="take 8 bytes, got 7"):
        incoming.check(specs, buffer[:7], checksum(buffer[:7]))


def test_an_incomplete_update_is_refused(incoming):
    incoming.check(*bucket(("model.norm.weight", "float32", (2,))))
    with pytest.raises(EngineError, match="expected 2 tensors, got 1"):
        incoming.finish(3, 2)
    with pytest.raises(EngineError, match=r"did not come: model\.embed_tokens.weight"):
        incoming.finish(3, 1)
    with pytest.raises(EngineError, match="the update that ends is of version 4"):
        incoming.finish(4, 1)


def test_buffers_that_are_not_flat_bytes_are_refused():
    with pytest.raises(EngineError, match="flat uint8 buffer, got float32"):
        flat_bytes(np.zeros(3, np.float32))


def test_shapes_are_read_from_safetensors_headers(tmp_path):
    assert checkpoint_shapes(tmp_path) is None
    for number, (name, shape) in enumerate(EXPECTED.items()):
        header = json.dumps({"__metadata__": {}, name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
        (tmp_path / f"model-{number}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    assert checkpoint_shapes(tmp_path) == EXPECTED
