import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_data.cli import main
from rl_data.rows import open_rows
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
    frame = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n{}4<|im_end|>{}\n"
    assert shown.out == frame.format("[[", "]]")
    assert shown.err == f"\n{path}:2: 26 tokens, 2 trained\n"
    assert main(["render", path, "--tokenizer", model, "--row", "1", "--color", "always"]) == 0
    assert capsys.readouterr().out == frame.format("\033[32m", "\033[0m")
    assert main(["render", path, "--tokenizer", model]) == 0
    assert capsys.readouterr().out == "<|im_start|>user\nfirst<|im_end|>\n<|im_start|>assistant\n"


def test_grade_prints_a_line_for_each_row(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl(
        [
            {"response": "Answer: 4", "label": "4"},
            {"response_text": "Answer: 5", "label": "4"},
            {"label": "4"},
            {"response": "#### 7", "label": "7", "metadata": {"rm_type": "gsm8k"}},
        ]
    )
    words = ["grade", path, "--rm-type", "dapo", "--on-bad-row", "skip", "--max-bad-row-share", "0.25"]
    assert main(words) == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [(line["row"], line["value"]) for line in lines] == [(0, 1.0), (1, -1.0), (3, 1.0)]
    assert "skipped: " + f"{path}:3: expected key 'response' or 'response_text', found keys ['label']" in shown.err
    assert shown.err.endswith("3 graded, 1 bad rows skipped, mean 0.3333\n")


def test_stats_count_rows_keys_roles_and_duplicates(
    model: str, tmp_path: Path, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([CONVERSATION, CONVERSATION, "nonsense", {"prompt": "abc", "label": "d"}, {"text": "e"}])
    picture = tmp_path / "lengths.svg"
    words = ["stats", path, "--tokenizer", model, "--histogram", str(picture)]
    assert main([*words, "--on-bad-row", "skip", "--max-bad-row-share", "0.4"]) == 0
    shown = capsys.readouterr()
    stats = json.loads(shown.out)
    assert (stats["num_rows"], stats["num_bad_rows"], stats["num_unrendered_rows"]) == (4, 1, 2)
    assert stats["bad_rows"][0].startswith(f"{path}:3: not valid JSON")
    assert (stats["num_duplicates"], stats["duplicates"]) == (1, [f"{path}:2"])
    assert stats["keys"] == {"conversations": 2, "prompt": 1, "label": 1, "text": 1}
    assert stats["roles"] == {"human": 2, "gpt": 2}
    assert (stats["messages"]["min"], stats["messages"]["max"]) == (0, 2)
    assert stats["lengths"]["characters"]["max"] == len("human2+2?gpt4")
    assert stats["lengths"]["tokens"]["max"] > stats["lengths"]["tokens"]["min"] > 0
    assert "tokens in a row" in shown.err
    assert picture.read_text().startswith("<svg ")


def test_prepare_makes_messages_in_parquet(tmp_path: Path, write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("pyarrow")
    system = {
        "conversations": [{"from": "system", "value": "s"}, *CONVERSATION["conversations"]],
        "source": "airoboros",
    }
    robot = {"conversations": [{"from": "robot", "value": "q"}]}
    question = {"conversations": [{"from": "human", "value": "q"}]}
    path = write_jsonl([CONVERSATION, system, robot, question])
    to = tmp_path / "prepared" / "openhermes.parquet"
    words = ["prepare", "openhermes", path, "--to", str(to)]
    assert main(words) == 2
    assert f"{path}:3: key 'conversations', turn 0: expected a speaker" in capsys.readouterr().err
    assert not list(to.parent.iterdir())
    assert main([*words, "--on-bad-row", "skip", "--max-bad-row-share", "0.5"]) == 0
    shown = capsys.readouterr().err
    assert f"skipped: {path}:4: key 'conversations': expected a turn of gpt to train on, found none" in shown
    assert f"{to}: 2 rows, 2 bad ones left out; messages: 2 of assistant, 1 of system, 2 of user" in shown
    user, answer = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
    assert [row for _, row in open_rows(str(to)).rows()] == [
        {"messages": [user, answer], "source": None},
        {"messages": [{"role": "system", "content": "s"}, user, answer], "source": "airoboros"},
    ]
    assert main([*words, "--on-bad-row", "skip", "--max-bad-row-share", "0.4"]) == 2
    assert "2 of 4 rows are bad, more than let pass; the last: " in capsys.readouterr().err


def test_grade_takes_lengths_from_the_rows(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"response": "Answer: 4", "label": "4", "num_tokens": 95},
        {"response_text": "Answer: 4", "label": "4", "tokens": [1] * 102, "prompt_length": 2},
        {"response": "Answer: 4", "label": "4", "metadata": {"rm_type": "gsm8k"}},
        {"response": "Answer: 4", "label": "4", "num_tokens": 95, "tokens": [1] * 102, "prompt_length": 2},
    ]
    flags = ["--rm-type", "dapo+overlong", "--overlong-buffer-len", "10", "--rollout-max-response-len", "100"]
    path = write_jsonl(rows)
    assert main(["grade", path, *flags]) == 0
    assert [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()] == [0.5, 0.0, 1.0, 0.5]
    for row, message in (
        ({"response": "4", "label": "4"}, ":1: rm-type overlong: expected key 'num_tokens', found keys ['label'"),
        ({**rows[0], "num_tokens": "9"}, ":1: key 'num_tokens': expected a number of tokens, found text '9'"),
        ({**rows[1], "prompt_length": 103}, ":1: key 'prompt_length': expected a number in [0, 102], found 103"),
        ({**rows[1], "prompt_length": -1}, ":1: key 'prompt_length': expected a number in [0, 102], found -1"),
    ):
        path = write_jsonl([row])
        assert main(["grade", path, *flags]) == 2
        assert message in capsys.readouterr().err
    assert main(["grade", path, "--rm-type", "overlong"]) == 2
    assert "--rm-type overlong: --overlong-buffer-len is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["grade", path, "--max-bad-row-share", "7"])
    assert "--max-bad-row-share: expected a share from 0 to 1, got 7" in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_message_and_exit_code_2(
    tmp_path: Path, model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([{"response": "Answer: 4"}])
    for command, message in (
        (["stats", str(tmp_path / "no.jsonl")], "expected a file, a folder or a pattern, found nothing"),
        (["render", path, "--tokenizer", model, "--row", "7"], "expected a row in [0, 1), got 7"),
        (["render", path, "--tokenizer", model], f"{path}:1: expected one of the keys messages,"),
        (["render", path, "--tokenizer", str(tmp_path / "no")], "expected a folder with a tokenizer"),
        (["grade", path, "--rm-type", "dapo"], f"{path}:1: rm-type dapo: expected a label to compare"),
        (["grade", path, "--rm-type", "custom"], "--rm-type custom: --custom-rm-path is missing"),
        (["grade", path, "--rm-num-workers", "0"], "--rm-num-workers 0: expected at least 1"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("rl-data: ")
        assert error.count("\n") == 1
