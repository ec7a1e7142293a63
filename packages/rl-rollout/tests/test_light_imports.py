"""What is left out of an engine's process, and that nothing else is. The engine's own tests run in such a process."""

import gc
import importlib.metadata
import importlib.util
import json
import os

import pytest

from rl_rollout.sglang.light_imports import collecting_later, hidden, leave_out_other_models, quick_distributions

DISABLED = "SGLANG_DISABLED_MODEL_ARCHS"


def test_a_hidden_library_looks_not_installed_and_is_there_again_afterwards():
    import json as loaded

    with hidden("wave", "json"):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ImportError):
            import wave
        import json

        assert json is loaded
    import wave

    assert wave.Error


def test_garbage_collection_waits_and_comes_back_as_it_was():
    with collecting_later():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_distributions_that_are_looked_up_one_by_one_are_those_of_the_list():
    listed = importlib.metadata.packages_distributions()
    with quick_distributions():
        quick = importlib.metadata.packages_distributions()
        assert quick["numpy"] == listed["numpy"] == ["numpy"]
        assert quick["_pytest"] == listed["_pytest"] == ["pytest"]  # not found by its name
        with pytest.raises(KeyError):
            quick["no_such_package"]
    assert importlib.metadata.packages_distributions() == listed


@pytest.fixture
def left_out(tmp_path, monkeypatch):
    """Which of SGLang's model modules are left out for a config.json and server arguments; None if all are taken."""

    def modules(config, **server_args):
        monkeypatch.setenv(DISABLED, "")  # so that it is as before after the test
        monkeypatch.delenv(DISABLED)
        (tmp_path / "config.json").write_text(json.dumps(config))
        leave_out_other_models({"model_path": str(tmp_path), **server_args})
        given = os.environ.get(DISABLED)
        return None if given is None else given.split(",")

    return modules


def test_every_model_but_the_served_one_is_left_out(left_out):
    others = left_out({"architectures": ["Qwen3ForCausalLM"]})
    assert len(others) > 100
    assert "llama" in others
    assert "qwen3" not in others


def test_all_models_are_taken_where_it_is_not_plain_which_is_served(left_out, tmp_path, monkeypatch):
    qwen3 = {"architectures": ["Qwen3ForCausalLM"]}
    assert left_out({"architectures": ["NobodysForCausalLM"]}) is None
    assert left_out({"architectures": ["Gemma3TextModel"]}) is None  # SGLang takes another class for it
    assert left_out({**qwen3, "quantization_config": {}}) is None
    assert left_out({}) is None
    assert left_out(qwen3, model_impl="transformers") is None
    assert left_out(qwen3, speculative_draft_model_path="x") is None
    monkeypatch.setenv(DISABLED, "llama")
    leave_out_other_models({"model_path": str(tmp_path)})
    assert os.environ[DISABLED] == "llama"
