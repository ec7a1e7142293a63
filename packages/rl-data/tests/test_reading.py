"""What prompts and conversations share: several data sets, workers, and rows that cannot be used."""

import gzip
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_data import (
    ConversationDataConfig,
    ConversationSource,
    DataError,
    PromptDataConfig,
    PromptSource,
    RLDataError,
    Tokenizer,
)
from rl_data.source import RowFate
from rl_data.testing import check_source, tiny_tokenizer

Write = Callable[..., str]


def prompts(data: str | tuple[str, ...], tokenizer: Tokenizer, **settings: object) -> PromptSource:
    return PromptSource(PromptDataConfig(prompt_data=data, **settings), tokenizer)


def numbered(name: str, number: int) -> list[dict[str, object]]:
    return [{"input": f"{name}{index}"} for index in range(number)]


@pytest.fixture
def three_files(write_jsonl: Write) -> tuple[str, ...]:
    return tuple(
        write_jsonl(numbered(name, rows), name=f"{name}.jsonl") for name, rows in (("a", 4), ("b", 2), ("c", 3))
    )


def test_data_sets_are_read_one_after_the_other(tokenizer: Tokenizer, three_files: tuple[str, ...]):
    files = (f"{three_files[0]}@[1:3]", *three_files[1:])
    source = prompts(files, tokenizer)
    assert len(source) == 7
    assert [prompt.text for prompt in source.next_batch(8)] == ["a1", "a2", "b0", "b1", "c0", "c1", "c2", "a1"]
    assert source.epoch == 1
    check_source(lambda: prompts(files, tokenizer, rollout_shuffle=True))


@pytest.mark.parametrize("shuffle", [False, True])
def test_data_sets_are_mixed_by_weight(tokenizer: Tokenizer, three_files: tuple[str, ...], shuffle: bool):
    settings = {"prompt_data_weights": (2.0, 1.0, 1.0), "rollout_shuffle": shuffle}
    source = prompts(three_files, tokenizer, **settings)
    batch = source.next_batch(24)
    assert Counter(prompt.text[0] for prompt in batch) == {"a": 12, "b": 6, "c": 6}
    assert len({prompt.group_id for prompt in batch}) == 24
    resumed = prompts(three_files, tokenizer, **settings)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    assert [prompt.text for prompt in source.next_batch(9)] == [prompt.text for prompt in resumed.next_batch(9)]
    if not shuffle:
        assert [prompt.text for prompt in batch[:4]] == ["a0", "b0", "c0", "a1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_data": ()}, "prompt_data: expected at least one data set"),
        ({"prompt_data_weights": (1.0, 2.0)}, "prompt_data_weights: expected one for each of 1 data sets, got 2"),
        ({"prompt_data_weights": (0.0,)}, "prompt_data_weights: expected numbers above 0"),
        ({"max_bad_row_share": 2.0}, "max_bad_row_share 2.0: expected a share from 0 to 1"),
        ({"max_bad_row_share": 0.1}, "max_bad_row_share 0.1: has no effect without on_bad_row skip"),
        ({"num_data_workers": -1}, "num_data_workers -1: expected 0 or more"),
        ({"data_timeout_s": 0}, "data_timeout_s 0: expected a number above 0"),
        ({"data_timeout_s": float("inf")}, "data_timeout_s inf: expected a number above 0 and at most 9.2"),
        ({"data_timeout_s": float("nan")}, "data_timeout_s nan: expected a number above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(DataError, match=message):
        PromptDataConfig(**{"prompt_data": "rows.jsonl", **changes})


def test_a_rows_own_template_arguments_win(write_jsonl: Write):
    tokenizer = tiny_tokenizer(chat_template="{{ enable_thinking }} {{ style }}")
    rows = [
        {"input": "q"},
        {"input": "q", "chat_template_kwargs": {"enable_thinking": True, "style": None}},
        {"input": "q", "chat_template_kwargs": '{"style": "long"}'},
    ]
    source = prompts(
        write_jsonl(rows),
        tokenizer,
        apply_chat_template=True,
        apply_chat_template_kwargs={"enable_thinking": False, "style": "short"},
    )
    assert [prompt.text for prompt in source.next_batch(3)] == ["False short", "True short", "False long"]
    bad = prompts(write_jsonl([{"input": "q", "chat_template_kwargs": 3}]), tokenizer, apply_chat_template=True)
    with pytest.raises(DataError, match=r":1: key 'chat_template_kwargs': expected an object, found int 3"):
        bad.validate()


def test_conversations_take_template_arguments_by_row(write_jsonl: Write):
    template = (
        "{{ style }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tiny_tokenizer(chat_template=template)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = write_jsonl([{"messages": messages}, {"messages": messages, "chat_template_kwargs": {"style": "!"}}])
    source = ConversationSource(ConversationDataConfig(prompt_data=path), tokenizer)
    plain, styled = (tokenizer.decode(sample.tokens.tolist()) for sample in source.next_batch(2))
    assert styled == "!" + plain


class TestLongPrompts:
    def chat(self, *contents: str) -> dict[str, object]:
        roles = ("system", "user")[-len(contents) :]
        return {"input": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]}

    def test_the_longest_message_loses_its_beginning(self, tokenizer: Tokenizer, write_jsonl: Write):
        path = write_jsonl([self.chat("Be brief.", "x" * 200 + "How much is 2+2?"), self.chat("short")])
        frame = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        # One token a byte and one a special token: the frame takes 41 beside the content.
        room = len(tokenizer.encode(frame.format(""))) + 16
        source = prompts(path, tokenizer, apply_chat_template=True, rollout_max_prompt_len=room, on_long_prompt="cut")
        cut, whole = source.next_batch(2)
        assert cut.text == frame.format("How much is 2+2?")
        assert len(cut.tokens) == room
        assert "short" in whole.text
        assert (source.num_cut, source.num_dropped) == (1, 0)
        (note,) = source.take_notes()
        assert note.fate is RowFate.CUT
        assert note.message == f"{path}:1: {room + 200} tokens, cut to at most {room}"
        assert source.take_notes() == []

    def test_raw_text_keeps_its_end(self, tokenizer: Tokenizer, write_jsonl: Write):
        source = prompts(
            write_jsonl([{"input": "abcdefgh"}]), tokenizer, rollout_max_prompt_len=3, on_long_prompt="cut"
        )
        assert source.next_batch(1)[0].text == "fgh"

    def test_a_frame_that_does_not_fit_is_dropped_and_listed(self, tokenizer: Tokenizer, write_jsonl: Write):
        path = write_jsonl([self.chat("x" * 50), {"input": [{"role": "user", "content": ""}]}])
        settings = {"apply_chat_template": True, "rollout_max_prompt_len": 10, "on_long_prompt": "cut"}
        source = prompts(path, tokenizer, **settings)
        with pytest.raises(DataError, match="every one of 2 rows is longer than wanted"):
            source.next_batch(1)
        assert [note.message.removeprefix(path)[:3] for note in source.take_notes()] == [":1:", ":2:", ":1:"]


def conversation(*texts: str, keys: tuple[str, str] = ("from", "value")) -> dict[str, object]:
    speakers = ("human", "gpt") if keys[0] == "from" else ("user", "assistant")
    turns = [{keys[0]: speaker, keys[1]: text} for speaker, text in zip(speakers, texts, strict=True)]
    return {"conversations": turns}


def conversations(data: str, tokenizer: Tokenizer, **settings: object) -> ConversationSource:
    return ConversationSource(ConversationDataConfig(prompt_data=data, **settings), tokenizer)


@pytest.mark.parametrize("on_long_conversation", ["drop", "cut"])
def test_conversations_that_are_dropped_or_cut_are_listed(
    tokenizer: Tokenizer, write_jsonl: Write, on_long_conversation: str
):
    path = write_jsonl([conversation("q", "x" * 100), conversation("q", "a"), conversation("x" * 100, "a")])
    source = conversations(path, tokenizer, max_length=60, on_long_conversation=on_long_conversation)
    num_whole = len(conversations(path, tokenizer).next_batch(1)[0].tokens)
    first = "dropped" if on_long_conversation == "drop" else "cut"
    assert [sample.group_id for sample in source.next_batch(3)][-1] == ("2-1" if first == "dropped" else "1-0")
    notes = source.take_notes()
    wanted = {"dropped": "at most 60 are wanted", "cut": "cut to at most 60"}
    why = "" if first == "dropped" else ", of which none is to be trained"
    assert [(note.fate, note.row) for note in notes[:2]] == [(RowFate(first), 0), (RowFate.DROPPED, 2)]
    assert notes[0].message == f"{path}:1: {num_whole} tokens, {wanted[first]}"
    assert notes[1].message == f"{path}:3: {num_whole} tokens, {wanted['dropped']}{why}"
    assert len(notes) == source.num_dropped + source.num_cut


def test_notes_that_nobody_takes_are_forgotten_aloud(
    tokenizer: Tokenizer, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("rl_data.source._MAX_NOTES", 3)
    path = write_jsonl([{"input": "long " * 9}, {"input": "one"}])
    source = prompts(path, tokenizer, rollout_max_prompt_len=10)
    source.next_batch(3)
    assert (source.num_unlisted, caplog.text) == (0, "")
    source.next_batch(4)
    assert (source.num_dropped, source.num_unlisted, len(source.take_notes())) == (7, 4, 3)
    assert caplog.text.count("were left out or cut since their list was taken") == 1
    assert f"from {path}:1: " in caplog.text


BAD_AND_GOOD = [*numbered("good", 8), {"question": "no input"}, "{not json", *numbered("fine", 10)]


class TestBadRows:
    def test_they_are_skipped_counted_and_listed(self, tokenizer: Tokenizer, write_jsonl: Write):
        path = write_jsonl(BAD_AND_GOOD)
        source = prompts(path, tokenizer, on_bad_row="skip", max_bad_row_share=0.1)
        found = source.validate()
        assert [(note.fate, note.row) for note in found] == [(RowFate.BAD, 8), (RowFate.BAD, 9)]
        assert found[0].message == f"{path}:9: expected key 'input', found keys ['question']"
        assert found[1].message.startswith(f"{path}:10: not valid JSON")
        assert [prompt.text for prompt in source.next_batch(18)] == [
            str(row["input"]) for row in BAD_AND_GOOD if isinstance(row, dict) and "input" in row
        ]
        assert source.num_bad == 2
        assert source.take_notes() == found
        source.next_batch(18)
        assert source.num_bad == 4  # of two epochs; the share is that of the rows
        resumed = prompts(path, tokenizer, on_bad_row="skip", max_bad_row_share=0.1)
        resumed.load_state_dict(source.state_dict())
        assert resumed.num_bad == 4

    def test_too_many_end_it_all_the_same(self, tokenizer: Tokenizer, write_jsonl: Write):
        path = write_jsonl(BAD_AND_GOOD)
        message = (
            "2 of 20 rows are bad, more than --max-bad-row-share 0.05 lets pass; the last: .*rows.jsonl:10: not valid"
        )
        for use in (PromptSource.validate, lambda source: source.next_batch(20), lambda source: [*source.one_epoch()]):
            with pytest.raises(DataError, match=message):
                use(prompts(path, tokenizer, on_bad_row="skip", max_bad_row_share=0.05))

    def test_one_ends_it_unless_they_are_to_be_skipped(self, tokenizer: Tokenizer, write_jsonl: Write):
        source = prompts(write_jsonl(BAD_AND_GOOD), tokenizer)
        with pytest.raises(DataError, match=r"rows.jsonl:9: expected key 'input'"):
            source.validate()
        with pytest.raises(DataError, match=r"rows.jsonl:9: expected key 'input'"):
            source.next_batch(20)

    def test_the_first_row_may_be_one(self, tokenizer: Tokenizer, write_jsonl: Write):
        good = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
        robot = {"conversations": [{"from": "robot", "value": "q"}]}
        path = write_jsonl(["nonsense", good, robot, good])
        config = ConversationDataConfig(prompt_data=path, on_bad_row="skip", max_bad_row_share=0.5)
        source = ConversationSource(config, tokenizer)
        assert [note.row for note in source.validate()] == [0, 2]
        assert [sample.group_id for sample in source.next_batch(3)] == ["0-1", "0-3", "1-1"]

    def test_mixed_schemas_are_named_with_what_the_first_row_has(self, tokenizer: Tokenizer, write_jsonl: Write):
        turns, messages = conversation("q", "a"), conversation("q", "a", keys=("role", "content"))
        for rows, message in (
            ([turns, messages], "turn 0: expected an object with from and value, found object .*; .*:1 has from and"),
            ([messages, turns], "message 0: expected an object with role and content, found .*; .*:1 has role and"),
        ):
            path = write_jsonl(rows)
            with pytest.raises(DataError, match=rf"rows.jsonl:2: key 'conversations', {message}"):
                conversations(path, tokenizer, input_key="conversations").validate()
        skipping = {"on_bad_row": "skip", "max_bad_row_share": 0.5}
        source = conversations(write_jsonl([{"conversations": None}, {}, turns, turns]), tokenizer, **skipping)
        assert [note.row for note in source.validate()] == [0, 1]
        with pytest.raises(DataError, match=r"2 of 2 rows are bad, .*:2: expected key 'conversations'"):
            conversations(write_jsonl([{"conversations": None}, {}]), tokenizer, **skipping).validate()

    def test_their_share_is_that_of_all_rows_also_after_a_resume(self, tokenizer: Tokenizer, write_jsonl: Write):
        rows = [{"input": f"row {number}"} for number in range(10)]
        rows[1] = rows[7] = {"a": 1}
        path = write_jsonl(rows)

        def resumed(state: dict[str, object]) -> PromptSource:
            source = prompts(path, tokenizer, on_bad_row="skip", max_bad_row_share=0.1)
            source.load_state_dict(state)
            return source

        source = prompts(path, tokenizer, on_bad_row="skip", max_bad_row_share=0.1)
        source.next_batch(4)
        state = json.loads(json.dumps(source.state_dict()))
        assert state["bad_rows"] == [1]
        with pytest.raises(DataError, match="2 of 10 rows are bad"):
            resumed(state).next_batch(4)
        older = {key: value for key, value in state.items() if key != "bad_rows"}
        assert len(resumed(older).next_batch(4)) == 4
        with pytest.raises(DataError, match=r"position is damaged: bad_rows \['1'\]"):
            resumed({**state, "bad_rows": ["1"]})

    def test_a_share_lets_pass_as_many_as_it_says(self, tokenizer: Tokenizer, write_jsonl: Write):
        settings = {"on_bad_row": "skip", "max_bad_row_share": 0.29}  # times 100 it is 28.999999999999996
        for num_bad, is_fine in ((29, True), (30, False)):
            source = prompts(write_jsonl([*numbered("good", 100 - num_bad), *[{}] * num_bad]), tokenizer, **settings)
            if is_fine:
                assert len(source.validate()) == num_bad
            else:
                with pytest.raises(DataError, match=r"30 of 100 rows are bad, more than --max-bad-row-share 0\.29"):
                    source.validate()

    def test_nothing_left_is_an_error(self, tokenizer: Tokenizer, write_jsonl: Write):
        source = prompts(write_jsonl([{"a": 1}] * 3), tokenizer, on_bad_row="skip", max_bad_row_share=1.0)
        with pytest.raises(
            DataError, match=r"every one of 3 rows is longer than wanted or bad; the last: .*: expected key"
        ):
            source.next_batch(1)


def test_any_number_of_workers_gives_the_items_of_one_process_ahead_of_their_use(tokenizer: Tokenizer, tmp_path: Path):
    """One test, for workers take seconds to start."""
    path = tmp_path / "rows.jsonl.gz"
    rows = [*numbered("row", 40), {"input": "long " * 50}, {"bad": 1}]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    settings = {"rollout_shuffle": True, "rollout_max_prompt_len": 20, "on_bad_row": "skip", "max_bad_row_share": 0.05}
    alone, *helped = (prompts(str(path), tokenizer, num_data_workers=number, **settings) for number in (0, 1, 3))

    def check(size: int) -> None:
        expected, notes = alone.next_batch(size), alone.take_notes()
        for source in helped:
            assert [(one.text, one.group_id, one.tokens.tolist()) for one in source.next_batch(size)] == [
                (one.text, one.group_id, one.tokens.tolist()) for one in expected
            ]
            assert source.state_dict() == alone.state_dict()
            assert source.take_notes() == notes

    state = alone.state_dict()
    for size in (1, 7, 30, 3, 60):
        check(size)
        for source in helped:
            assert source._ahead is not None
            assert source._ahead.num_waiting >= size  # the next batch is on its way
    for source in (alone, *helped):  # what was made ahead is of no use any more
        source.load_state_dict(state)
    check(50)
    one = helped[0]
    assert one._ahead is not None
    os.kill(one._ahead._workers[0].pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RLDataError, match=r"data worker 1 of 1 .* died of signal 9 \(Killed, as"):
            one.next_batch(200)
    one.take_notes()
    for source in (alone, *helped):  # the one whose worker failed starts another
        source.load_state_dict(state)
    check(30)
    for source in helped:
        source.close()


def test_workers_are_the_default_where_there_are_many_rows(tokenizer: Tokenizer, tmp_path: Path):
    def file(num_rows: int) -> str:
        path = tmp_path / f"{num_rows}.jsonl"
        path.write_text('{"input": "one"}\n' * num_rows)
        return str(path)

    few, many = prompts(file(9_999), tokenizer), prompts(file(10_000), tokenizer)
    assert [len(source.next_batch(2)) for source in (few, many)] == [2, 2]
    assert few._ahead is None
    assert many._ahead is not None
    many.close()
