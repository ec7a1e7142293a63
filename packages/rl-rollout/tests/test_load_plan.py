"""A small model whose parameters are put together of several tensors, as SGLang's are."""

import pytest
import torch

from rl_rollout.sglang.load_plan import LoadPlan, read_back


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.bfloat16))
        self.norm = torch.nn.Parameter(torch.zeros(3))
        self.padded = torch.nn.Parameter(torch.ones(5, 2))
        self.num_loads = 0

    def load_weights(self, weights):
        self.num_loads += 1
        for name, weight in weights:
            if name in ("q", "k", "v"):
                self.qkv.data.narrow(0, 2 * "qkv".index(name), 2).copy_(weight)
            elif name == "norm":
                self.norm.data.copy_(weight)
            else:
                self.padded[: weight.shape[0]].data.copy_(weight)
                self.padded[weight.shape[0] :].data.fill_(0)


def tensors_and_bucket(seed):
    """Tensors by name, and a buffer with them end to end behind 8 other bytes."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(2, 4, generator=rng).to(torch.bfloat16) for name in "qkv"}
    tensors |= {"norm": torch.randn(3, generator=rng), "padded": torch.randn(4, 2, generator=rng)}
    buffer = torch.cat(
        [torch.zeros(8, dtype=torch.uint8), *(t.reshape(-1).view(torch.uint8) for t in tensors.values())]
    )
    return tensors, buffer[8:]


def views(tensors, bucket):
    start = 0
    for name, tensor in tensors.items():
        yield name, bucket[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += tensor.nbytes


def is_loaded(model, tensors):
    parts = zip(model.qkv.split(2), [tensors[name] for name in "qkv"], strict=True)
    return (
        all(torch.equal(*pair) for pair in parts)
        and torch.equal(model.norm, tensors["norm"])
        and torch.equal(model.padded, torch.cat([tensors["padded"], torch.zeros(1, 2)]))
    )


def test_what_was_seen_once_is_done_again_without_the_models_own_code():
    model = Model()
    first, second = tensors_and_bucket(0), tensors_and_bucket(1)
    plan = LoadPlan.load_and_see(model, views(*first), first[1])
    assert plan is not None
    assert is_loaded(model, first[0])
    model.padded.data.fill_(7)  # memory that was given up and taken back holds anything, also where no tensor goes
    assert plan.fits(model)
    plan.load(second[1])
    assert is_loaded(model, second[0])
    assert model.num_loads == 1


def test_tensors_are_read_back_from_where_they_were_loaded_and_nothing_changes():
    model = Model()
    tensors, _ = tensors_and_bucket(0)
    model.load_weights(tensors.items())
    model.padded.data[4] = 7  # no tensor goes there
    model.qkv.data[5, 3] += 1
    for name, tensor in tensors.items():
        held = torch.zeros_like(tensor)
        read_back(model, name, held)
        assert torch.equal(held, tensor) == (name != "v")
    assert model.padded[4].tolist() == [7, 7]


def test_what_a_model_loads_by_way_of_a_copy_cannot_be_read_back():
    class Casting(Model):
        def load_weights(self, weights):
            super().load_weights((name, weight.double()) for name, weight in weights)

    with pytest.raises(RuntimeError, match="norm: SGLang loads it by way of a copy"):
        read_back(Casting(), "norm", torch.zeros(3))


def test_a_plan_does_not_fit_parameters_that_moved():
    model = Model()
    first = tensors_and_bucket(0)
    plan = LoadPlan.load_and_see(model, views(*first), first[1])
    assert plan is not None
    model.norm.data = model.norm.data.clone()
    assert not plan.fits(model)


@pytest.mark.parametrize("change", [torch.Tensor.float, torch.clone], ids=["cast", "copied"])
def test_there_is_no_plan_where_a_tensor_was_changed_on_its_way(change):
    model = Model()
    tensors, bucket = tensors_and_bucket(0)
    given = [(name, change(view) if name == "k" else view) for name, view in views(tensors, bucket)]
    assert LoadPlan.load_and_see(model, given, bucket) is None
    assert is_loaded(model, tensors)


def test_there_is_no_plan_where_a_tensor_was_left_out():
    class Tied(Model):
        def load_weights(self, weights):
            super().load_weights((name, weight) for name, weight in weights if name != "norm")

    tensors, bucket = tensors_and_bucket(0)
    assert LoadPlan.load_and_see(Tied(), views(tensors, bucket), bucket) is None
