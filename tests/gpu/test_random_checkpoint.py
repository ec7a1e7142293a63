"""Weights drawn on a GPU: equal for equal seeds, whatever the threads do, and not those of a CPU."""

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint
from rl_weights import diff_checkpoints

pytestmark = pytest.mark.gpu


def test_equal_seeds_give_equal_bytes_on_one_kind_of_device(tmp_path) -> None:
    for name, device in (("first", "cuda"), ("second", "cuda"), ("cpu", "cpu")):
        make_checkpoint(tmp_path / name, MODEL_CONFIGS["tiny"], device=device)
    assert diff_checkpoints(tmp_path / "first", tmp_path / "second").is_equal
    assert not diff_checkpoints(tmp_path / "first", tmp_path / "cpu").is_equal
