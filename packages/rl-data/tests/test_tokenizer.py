import json
from pathlib import Path

import pytest

from rl_data import DataError, load_tokenizer
from rl_data.testing import tiny_tokenizer
from rl_data.tokenizer import _CLASSES


def test_a_saved_tokenizer_loads_with_its_template_and_encodes_the_same(tmp_path: Path):
    saved = tiny_tokenizer(tmp_path)
    loaded = load_tokenizer(tmp_path, needs_chat_template=True)
    text = "<|im_start|>user\nh\u00e9llo 12<|im_end|>\n"
    assert loaded.encode(text, add_special_tokens=False) == saved.encode(text, add_special_tokens=False)
    assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text


def test_folders_without_a_usable_tokenizer_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="expected a folder with a tokenizer, found nothing"):
        load_tokenizer(tmp_path / "no")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected tokenizer.json or tokenizer_config.json, found \['config.json'\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(DataError, match="the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)


def test_a_missing_chat_template_is_refused_only_where_one_is_needed(tmp_path: Path):
    tiny_tokenizer(tmp_path)
    for file in tmp_path.glob("chat_template*"):
        file.unlink()
    assert load_tokenizer(tmp_path).chat_template is None
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        load_tokenizer(tmp_path, needs_chat_template=True)


@pytest.mark.parametrize(("model_type", "class_name"), [*sorted(_CLASSES), ("qwen3", "Qwen2TokenizerFast")])
def test_the_class_of_a_known_model_is_the_one_that_transformers_takes(tmp_path, model_type, class_name):
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = class_name
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(tmp_path)
    assert type(loaded).__name__ == class_name.removesuffix("Fast")
    assert repr(loaded) == repr(AutoTokenizer.from_pretrained(str(tmp_path)))
