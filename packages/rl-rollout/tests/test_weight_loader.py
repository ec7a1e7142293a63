"""The loader by itself, on a small model: what SGLang's scheduler calls, without SGLang."""

import json
import os

import msgspec
import numpy as np
import pytest
import torch

from rl_rollout.sglang.messages import CheckBuffer, DeviceBuffer, DeviceStorage, LetGo, memory_file
from rl_rollout.sglang.weight_loader import load
from rl_rollout.sglang.weight_orders import HostBuffer, LoadBucket, Order, OrderAnswer, ReadTensors, as_one
from rl_rollout.weights import aligned_places, checksum

SPECS = [("flag", "bool", (1,)), ("first", "float32", (2, 3)), ("second", "bfloat16", (4,))]


class Model(torch.nn.Module):
    """Holds "first" and "second" in one parameter; a tensor of another name is an error, as in SGLang."""

    def __init__(self):
        super().__init__()
        self.both = torch.nn.Parameter(torch.zeros(10))
        self.flag = torch.nn.Parameter(torch.zeros(1, dtype=torch.bool), requires_grad=False)

    def load_weights(self, weights):
        places = {"first": self.both.data[:6].view(2, 3), "second": self.both.data[6:], "flag": self.flag.data}
        for name, weight in weights:
            places[name].copy_(weight)


def tensors(scale=1.0):
    first = scale * torch.arange(6, dtype=torch.float32).view(2, 3)
    return {"flag": torch.tensor([True]), "first": first, "second": scale * torch.ones(4, dtype=torch.bfloat16)}


def content_of(named):
    return np.concatenate([named[name].view(-1).view(torch.uint8).numpy() for name, _, _ in SPECS])


def carry_out(model, task):
    answer_file = os.memfd_create("answer")
    try:
        order = Order(task, f"/proc/{os.getpid()}/fd/{answer_file}")
        load(model, [(msgspec.json.encode(order).decode(), torch.empty(0))])
        return msgspec.json.decode(os.pread(answer_file, 1 << 16, 0), type=OrderAnswer)
    finally:
        os.close(answer_file)


def send(model, content, *, specs=SPECS, given_checksum=None):
    descriptor = memory_file(memoryview(content))
    try:
        buffer = HostBuffer(f"/proc/{os.getpid()}/fd/{descriptor}", content.size)
        return carry_out(model, LoadBucket(specs, given_checksum or checksum(content), buffer))
    finally:
        os.close(descriptor)


def test_tensors_are_loaded_also_where_their_dtype_is_not_aligned():
    model = Model()
    for scale in (1.0, 2.0, 3.0):
        answer = send(model, content_of(tensors(scale)))
        assert answer.refusal is None
        assert set(answer.seconds) == {"open", "checksum", "load"}
        assert model.both.tolist() == [0, scale, 2 * scale, 3 * scale, 4 * scale, 5 * scale, *[scale] * 4]
        assert model.flag.item()


def test_a_bucket_that_is_sent_again_is_loaded_like_the_first():
    aligned = SPECS[1:]
    model = Model()
    for scale in (1.0, 2.0, 3.0):
        assert send(model, content_of(tensors(scale))[1:], specs=aligned).refusal is None
        assert model.both.tolist() == [0, scale, 2 * scale, 3 * scale, 4 * scale, 5 * scale, *[scale] * 4]


def test_a_damaged_bucket_is_refused_and_nothing_of_it_is_loaded():
    model = Model()
    refusal = send(model, content_of(tensors()), given_checksum="0" * 16).refusal
    assert refusal is not None
    assert refusal.startswith(f"expected checksum {'0' * 16}, got ")
    assert not model.both.any()


def test_an_error_of_the_model_is_told_and_not_raised():
    refusal = send(Model(), np.zeros(4, np.uint8), specs=[("third", "float32", (1,))]).refusal
    assert refusal == "KeyError('third')"


def test_tensors_are_read_back_into_a_file():
    model = Model()
    send(model, content_of(tensors(3.0)))
    places = aligned_places(SPECS)
    assert places == [(0, 1), (16, 40), (48, 56)]
    descriptor = memory_file(memoryview(bytes(56)))
    try:
        file = HostBuffer(f"/proc/{os.getpid()}/fd/{descriptor}", 56)
        assert carry_out(model, ReadTensors(SPECS, file)).refusal is None
        held = os.pread(descriptor, 56, 0)
    finally:
        os.close(descriptor)
    content = content_of(tensors(3.0)).tobytes()
    assert b"".join(held[start:stop] for start, stop in places) == content


def test_an_empty_bucket_is_loaded():
    assert send(Model(), np.zeros(0, np.uint8), specs=[]).refusal is None


def test_memory_of_a_gpu_that_the_model_is_not_on_is_refused_by_both_names():
    assert carry_out(Model(), LetGo()) == OrderAnswer()
    storage = DeviceStorage("me", 0, "GPU-1", b"handle", 8, 0, b"counter", 0, b"event", False)
    buffer = DeviceBuffer(storage, 0, 8, [0])
    for task in (LoadBucket([("second", "bfloat16", (4,))], "0" * 16, buffer), CheckBuffer(buffer, "0" * 16)):
        assert carry_out(Model(), task).refusal == "the bucket is on GPU GPU-1, the engine on a CPU"


@pytest.mark.parametrize("value", [b"\x00\xff\x80handle", b""])
def test_handles_keep_their_bytes_on_the_way(value):
    storage = DeviceStorage("me", 3, "GPU-1", value, 8, 2, value, 1, value, True)
    order = Order(LoadBucket([], "", DeviceBuffer(storage, 0, 8, [3])), "nowhere")
    encoded = msgspec.json.encode(order).decode()
    assert msgspec.json.decode(encoded, type=Order) == order
    assert json.loads(encoded)["task"]["buffer"]["alive"] == [3]


def test_the_answers_of_several_ranks_become_one():
    slow, fast = OrderAnswer(seconds={"load": 2.0}), OrderAnswer(seconds={"open": 1.0, "load": 1.0})
    assert as_one([slow, fast]) == OrderAnswer(seconds={"open": 1.0, "load": 2.0})
    assert as_one([fast, OrderAnswer(refusal="no"), OrderAnswer(refusal="never")]).refusal == "no"
    assert as_one([OrderAnswer(), OrderAnswer()]) == OrderAnswer()
