import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_data.cli import main
from rl_data.testing import tiny_tokenizer

Write = Callable[..., str]
CONVERSATION = {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_tokenizer(folder)
    return str(folder)


def test_render_marks_the_trained_tokens(model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl([{"prompt": "first"}, CONVERSATION])
    assert main(["render", path, "--tokenizer", model, "--row", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[[4<|im_end|>]]\n"
    assert "2 trained" in shown.err
    assert main(["render", path, "--tokenizer", model]) == 0
    assert capsys.readouterr().out == "<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\n"


def test_grade_prints_a_line_for_each_row(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl([{"response": "Answer: 4", "label": "4"}, {"response_text": "Answer: 5", "label": "4"}])
    assert main(["grade", path, "--rm-type", "dapo"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["value"] for line in shown.out.splitlines()] == [1.0, -1.0]
    assert shown.err == "2 graded, mean 0.0000\n"


def test_stats_count_rows_keys_roles_and_duplicates(model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl([CONVERSATION, CONVERSATION, {"prompt": "abc", "label": "d"}])
    assert main(["stats", path, "--tokenizer", model]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["num_rows"], stats["num_duplicates"]) == (3, 1)
    assert stats["keys"] == {"conversations": 2, "prompt": 1, "label": 1}
    assert stats["roles"] == {"human": 2, "gpt": 2}
    assert stats["chars"]["min"] == 4
    assert stats["tokens"]["max"] > stats["tokens"]["min"] > 0


def test_what_the_user_can_mend_is_one_message_and_exit_code_2(
    tmp_path: Path, model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([{"response": "Answer: 4"}])
    for command, message in (
        (["stats", str(tmp_path / "no.jsonl")], "expected a file, a folder or a pattern, found nothing"),
        (["render", path, "--tokenizer", model, "--row", "7"], "expected a row in [0, 1), got 7"),
        (["render", path, "--tokenizer", model], f"{path}:1: expected one of the keys messages,"),
        (["render", path, "--tokenizer", str(tmp_path / "no")], "expected a folder with a tokenizer"),
        (["grade", path, "--rm-type", "dapo"], f"{path}:1: expected key 'label', found keys ['response']"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("rl-data: ")
        assert error.count("\n") == 1
