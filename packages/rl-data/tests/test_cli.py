import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_data import ConversationDataConfig, ConversationSource, PromptDataConfig, PromptSource, load_tokenizer
from rl_data.cli import main
from rl_data.rows import open_rows
from rl_data.testing import CHATML_TEMPLATE, tiny_tokenizer

Write = Callable[..., str]
CONVERSATION = {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_tokenizer(folder)
    return str(folder)


TOOL_TEMPLATE = (
    "{%- if tools %}{{- 'tools: ' + tools | map(attribute='name') | join(' ') + '<|im_end|>\\n' }}{%- endif %}"
    "{%- if style %}{{- 'style: ' + style + '<|im_end|>\\n' }}{%- endif %}" + CHATML_TEMPLATE
)
"""Shows what a row has of its own."""


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tool_model")
    tiny_tokenizer(folder, chat_template=TOOL_TEMPLATE)
    return str(folder)


def test_render_marks_the_trained_tokens(model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl([{"conversations": []}, CONVERSATION])  # the first that is one tells the schema
    assert main(["render", path, "--tokenizer", model, "--row", "1"]) == 0
    shown = capsys.readouterr()
    frame = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n{}4<|im_end|>{}\n"
    assert shown.out == frame.format("[[", "]]")
    assert shown.err == f"\n{path}:2: 26 tokens, 2 trained\n"
    assert main(["render", path, "--hf-checkpoint", model, "--row", "1", "--color", "always"]) == 0
    assert capsys.readouterr().out == frame.format("\033[32m", "\033[0m")


def rows_with_own_fields(key: str, value: object) -> list[dict[str, object]]:
    """One with tools and variables under the default keys, and one with them under others, as JSON text."""
    tools, variables = [{"name": "add"}], {"style": "brief"}
    return [
        {key: value, "tools": tools, "chat_template_kwargs": variables},
        {key: value, "functions": json.dumps(tools), "variables": json.dumps(variables), "tools": "none"},
    ]


OWN_FIELDS = "tools: add<|im_end|>\nstyle: brief<|im_end|>\n"
OTHER_KEYS = ["--tool-key", "functions", "--chat-template-kwargs-key", "variables"]


def test_a_conversation_is_rendered_with_its_own_tools_and_variables(
    tool_model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    render = ["render", write_jsonl(rows_with_own_fields("turns", messages)), "--tokenizer", tool_model]
    render += ["--input-key", "turns"]
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[a<|im_end|>]]\n"
    common = ["--apply-chat-template-kwargs", '{"style": "long"}']
    assert main([*render, *common]) == 0
    assert capsys.readouterr().out == OWN_FIELDS + text
    assert main([*render, *common, "--row", "1"]) == 2
    assert "rows.jsonl:2: key 'tools': expected a list of tool definitions" in capsys.readouterr().err
    assert main([*render, "--row", "1", *OTHER_KEYS]) == 0
    assert capsys.readouterr().out == OWN_FIELDS + text
    assert main([*render, *OTHER_KEYS, *common]) == 0
    assert capsys.readouterr().out == "style: long<|im_end|>\n" + text


def test_a_prompt_is_rendered_as_raw_text_or_through_the_template_as_the_flags_say(
    tool_model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl(rows_with_own_fields("prompt", "2+2?"))
    render = ["render", path, "--tokenizer", tool_model, "--as", "prompts", "--input-key", "prompt"]
    assert main(render) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("2+2?", f"\n{path}:1: 4 tokens, a prompt\n")
    text = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert main([*render, "--apply-chat-template"]) == 0
    assert capsys.readouterr().out == OWN_FIELDS + text
    assert main([*render, "--apply-chat-template", "--row", "1", *OTHER_KEYS]) == 0
    assert capsys.readouterr().out == OWN_FIELDS + text
    assert main([*render, "--label-key", "label"]) == 2
    assert f"{path}:1: expected key 'label'" in capsys.readouterr().err
    path = write_jsonl([{"prompt": "2+2?", "answer": "four", "extra": {"rm_type": "math"}}])
    render = ["render", path, "--tokenizer", tool_model, "--as", "prompts", "--input-key", "prompt"]
    assert main([*render, "--label-key", "answer", "--metadata-key", "extra"]) == 0
    expected = f'\n{path}:1: 4 tokens, a prompt\nlabel: four\nmetadata: {{"rm_type":"math"}}\n'
    assert capsys.readouterr() == ("2+2?", expected)


def test_a_prompt_with_earlier_answers_trains_nothing_and_ends_where_the_next_begins(
    model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    path = write_jsonl([{"input": [{"role": role, "content": content} for role, content in turns]}])
    assert main(["render", path, "--tokenizer", model, "--as", "prompts", "--apply-chat-template"]) == 0
    assert capsys.readouterr().out == (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns) + "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("kind", ["conversations", "prompts"])
def test_render_and_stats_give_the_tokens_that_training_reads(
    kind: str, tool_model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    """Rows that fit, that are cut, that are dropped and that are bad, against the sources of the recipes."""
    turns = [
        [("user", "q" * length), ("assistant", "an answer")][: 2 if kind == "conversations" else 1]
        for length in (3, 24, 90)
    ]
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in each], "tools": [{"name": "add"}]}
        for each in turns
    ]
    path = write_jsonl([*rows, {"messages": "bad"} if kind == "conversations" else {"messages": 7}])
    tokenizer = load_tokenizer(tool_model)
    settings = {"prompt_data": path, "input_key": "messages", "on_bad_row": "skip", "max_bad_row_share": 1}
    if kind == "conversations":
        flags = ["--max-length", "60", "--on-long-conversation", "cut"]
        settings |= {"max_length": 60, "on_long_conversation": "cut"}
        source = ConversationSource(ConversationDataConfig(**settings), tokenizer)
    else:
        flags = ["--rollout-max-prompt-len", "70", "--on-long-prompt", "drop", "--apply-chat-template"]
        settings |= {"rollout_max_prompt_len": 70, "apply_chat_template": True}
        source = PromptSource(PromptDataConfig(**settings), tokenizer)
    items = {int(item.group_id.removeprefix("0-")): item for item in source.next_batch(2)}
    assert list(items) == [0, 1]
    command = [path, "--tokenizer", tool_model, "--as", kind, "--input-key", "messages", *flags]
    for row, item in items.items():
        assert main(["render", *command, "--row", str(row)]) == 0
        shown = capsys.readouterr()
        assert shown.out.replace("[[", "").replace("]]", "") == tokenizer.decode(item.tokens.tolist())
        if kind == "conversations":
            trained = "".join(part.split("]]")[0] for part in shown.out.split("[[")[1:])
            assert trained == tokenizer.decode(item.tokens[item.loss_mask].tolist())
    assert main(["render", *command, "--row", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"dropped: {path}:3: ")
    assert main(["render", *command, "--row", "3"]) == 2
    assert f"{path}:4: key 'messages': expected" in capsys.readouterr().err
    assert main(["stats", *command, "--on-bad-row", "skip", "--max-bad-row-share", "0.25"]) == 0
    stats = json.loads(capsys.readouterr().out)
    lengths = sorted(len(item.tokens) for item in items.values())
    assert [stats["lengths"]["tokens"][name] for name in ("min", "max")] == lengths
    training = stats["training"]
    num_cut = 1 if kind == "conversations" else 0
    assert [training[f"num_{name}"] for name in ("rows", "dropped", "cut", "bad")] == [2, 1, num_cut, 1]
    assert training["dropped"][0].startswith(f"{path}:3: ")
    if kind == "conversations":
        most = max(item.num_loss_tokens for item in items.values())
        assert stats["lengths"]["trained_tokens"]["max"] == most
        assert training["cut"][0].endswith("tokens, cut to at most 60")
    else:
        assert "trained_tokens" not in stats["lengths"]


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
    assert main([*words, "--on-bad-row", "skip", "--max-bad-row-share", "0.6"]) == 0
    shown = capsys.readouterr()
    stats = json.loads(shown.out)
    assert (stats["num_rows"], stats["num_bad_rows"]) == (4, 1)
    # Of the bad rows one is no JSON, and two are no conversations.
    assert (stats["training"]["num_rows"], stats["training"]["num_bad"]) == (2, 3)
    assert stats["bad_rows"][0].startswith(f"{path}:3: not valid JSON")
    assert (stats["num_duplicates"], stats["duplicates"]) == (1, [f"{path}:2"])
    assert stats["keys"] == {"conversations": 2, "prompt": 1, "label": 1, "text": 1}
    assert stats["roles"] == {"human": 2, "gpt": 2}
    assert (stats["messages"]["min"], stats["messages"]["max"]) == (0, 2)
    assert stats["lengths"]["tokens"]["max"] == stats["lengths"]["tokens"]["min"] == 26
    assert stats["lengths"]["trained_tokens"]["max"] == 2
    assert "tokens in a row" in shown.err
    assert picture.read_text().startswith("<svg ")


def test_stats_count_characters_of_content_and_none_of_roles(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "four", "name": "calculator"}]
    rows = [CONVERSATION, {"messages": messages, "label": "4"}, {"prompt": "a text", "label": "4"}]
    assert main(["stats", write_jsonl(rows)]) == 0
    shown = capsys.readouterr()
    lengths = json.loads(shown.out)["lengths"]["characters"]
    assert (lengths["min"], lengths["p50"], lengths["max"]) == (len("2+2?4"), len("a text4"), len("2+2?four"))
    assert shown.err.startswith("characters of content in a row\n")
    path = write_jsonl([{"prompt": "a text", "label": "4"}, {"text": "no prompt"}])
    assert main(["stats", path, "--input-key", "prompt"]) == 2
    assert f"{path}:2: expected key 'prompt', found keys ['text']" in capsys.readouterr().err
    assert main(["stats", path, "--input-key", "prompt", "--on-bad-row", "skip", "--max-bad-row-share", "0.5"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["num_rows"], stats["num_bad_rows"]) == (1, 1)
    assert stats["lengths"]["characters"]["max"] == len("a text")


def test_a_row_that_is_no_json_is_named_and_does_not_hide_the_others(
    model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl(["nonsense", CONVERSATION])
    assert main(["render", path, "--tokenizer", model, "--row", "1"]) == 0
    assert capsys.readouterr().err == f"\n{path}:2: 26 tokens, 2 trained\n"
    for command in ("render", "stats"):
        assert main([command, path, "--tokenizer", model]) == 2
        assert capsys.readouterr().err.startswith(f"rl-data: {path}:1: not valid JSON")
    path = write_jsonl(["nonsense"])
    assert main(["render", path, "--tokenizer", model]) == 2
    assert f"none of 1 rows is a JSON object; the first: {path}:1: not valid JSON" in capsys.readouterr().err


def test_stats_stop_at_a_row_that_training_cannot_use(
    model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([CONVERSATION, {"text": "a"}, {"text": "b"}])
    stats = ["stats", path, "--tokenizer", model]
    bad = "expected key 'conversations', found keys ['text'] (read as a conversation; prompts need --as prompts)"
    assert main(stats) == 2
    assert capsys.readouterr() == ("", f"rl-data: {path}:2: {bad}\n")
    assert main([*stats, "--on-bad-row", "skip", "--max-bad-row-share", "0.5"]) == 2
    assert f"2 of 3 rows are bad, more than let pass; the last: {path}:3: {bad}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-length", "0"], "--max-length: expected a number of tokens above 0, got 0"),
        (["--rollout-max-prompt-len", "-3"], "--rollout-max-prompt-len: expected a number of tokens above 0, got -3"),
        (["--apply-chat-template-kwargs", "[1]"], "--apply-chat-template-kwargs: expected a JSON object, got [1]"),
        (["--apply-chat-template-kwargs", "{a}"], "--apply-chat-template-kwargs: not valid JSON: "),
        (["--as", "samples"], "--as: invalid choice: 'samples' (choose from 'conversations', 'prompts')"),
    ],
)
def test_a_value_that_a_flag_cannot_take_is_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["render", "rows.jsonl", "--tokenizer", "model", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_stats_of_which_no_row_is_left_for_training_say_so(
    model: str, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([CONVERSATION])
    assert main(["stats", path, "--tokenizer", model, "--max-length", "25"]) == 2
    message = f"none of 1 rows is left: 1 dropped; such as {path}:1: 26 tokens, at most 25 are wanted"
    assert message in capsys.readouterr().err
    assert main(["render", path, "--tokenizer", model, "--max-length", "9", "--on-long-conversation", "cut"]) == 0
    expected = f"dropped: {path}:1: 26 tokens, at most 9 are wanted, of which none is to be trained\n"
    assert capsys.readouterr() == ("", expected)


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
    assert "2 of 4 rows are bad, more than --max-bad-row-share 0.4 lets pass; the last: " in capsys.readouterr().err


def test_bad_rows_beyond_the_first_are_counted_and_all_are_listed_on_demand(
    tmp_path: Path, write_jsonl: Write, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl([*[{"label": "4"}] * 30, {"response": "Answer: 4", "label": "4"}])
    words = ["grade", path, "--rm-type", "dapo", "--on-bad-row", "skip", "--max-bad-row-share", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"skipped: {path}:") for line in shown].count(True) == 20
    assert shown[20] == "skipped: 10 more bad rows, not named here: --list-bad-rows FILE lists all of them"
    listed = tmp_path / "bad.jsonl"
    assert main([*words, "--list-bad-rows", str(listed)]) == 0
    assert f"{listed}: lists 30 bad rows" in capsys.readouterr().err
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(30))
    assert lines[29]["message"] == f"{path}:30: expected key 'response' or 'response_text', found keys ['label']"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_a_full_disk_is_one_message(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = write_jsonl([{"response": "Answer: 4", "label": "4"}, {"label": "4"}])
    words = ["grade", path, "--rm-type", "dapo", "--on-bad-row", "skip", "--max-bad-row-share", "1"]
    assert main([*words, "--list-bad-rows", "/dev/full"]) == 2
    assert "rl-data: --list-bad-rows /dev/full: cannot be written: No space" in capsys.readouterr().err
    for command in (words, ["stats", *words[1:2], *words[4:]]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "rl_data.cli", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("rl-data: standard output: cannot be written: No space")


def test_a_setting_of_a_grader_that_nothing_asks_for_is_said(write_jsonl: Write, capsys: pytest.CaptureFixture[str]):
    path = str(write_jsonl([{"response": "Answer: 2", "label": "2"}]))
    assert main(["grade", path, "--rm-type", "dapo", "--custom-rm-path", "no.such"]) == 0
    said = "--custom-rm-path had no effect: neither --rm-type nor a row asks for custom\n"
    assert capsys.readouterr().err == f"1 graded, mean 1.0000\n{said}"


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
    render, nowhere = ["render", path, "--tokenizer", model], tmp_path / "no" / "lengths.svg"
    for command, message in (
        (["stats", str(tmp_path / "no.jsonl")], "expected a file, a folder or a pattern, found nothing"),
        (["render", path, "--tokenizer", model, "--row", "7"], "expected a row in [0, 1), got 7"),
        (render, f"{path}:1: expected key 'messages', found keys ['response'] (read as a conversation; prompts need"),
        ([*render, "--as", "conversations"], f"{path}:1: expected key 'messages', found keys ['response']\n"),
        ([*render, "--as", "prompts"], f"{path}:1: expected key 'input', found keys ['response']\n"),
        ([*render, "--apply-chat-template"], "--apply-chat-template: conversations are not read by it; prompts need"),
        ([*render, "--as", "prompts", "--max-length", "9"], "--max-length: prompts are not read by it"),
        (
            [*render, "--as", "prompts", "--apply-chat-template-kwargs", '{"a": 1}'],
            "--apply-chat-template-kwargs: it has no effect on prompts without --apply-chat-template",
        ),
        (["stats", path, "--max-length", "9"], "--max-length: it has no effect without --tokenizer"),
        (["stats", path, "--max-bad-row-share", "1"], "--max-bad-row-share 1: it has no effect without --on-bad-row"),
        (["grade", path, "--max-bad-row-share", "1"], "--max-bad-row-share 1: it has no effect without --on-bad-row"),
        ([*render, "--on-long-conversation", "cut"], "--on-long-conversation: it has no effect without --max-length"),
        (["stats", path, "--as", "prompts"], "--as prompts: it has no effect without --tokenizer"),
        (["stats", path, "--histogram", str(nowhere)], f"--histogram {nowhere}: expected a folder {nowhere.parent}"),
        (["stats", path, "--histogram", "a.png"], "--histogram a.png: expected a name that ends in .svg"),
        (["prepare", "openhermes", path, "--to", "rows"], "--to rows: expected a name that ends in .parquet"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "--colour", "always"], "unknown flag --colour; did you mean --color?"),
        (["grade", "--label=answer"], "unknown flag --label; did you mean --label-key?"),
    ],
)
def test_a_flag_that_is_misspelt_or_shortened_is_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
