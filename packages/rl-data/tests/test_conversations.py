from collections.abc import Callable

import pytest

from rl_data import ConversationDataConfig, ConversationSource, DataError, RowFate, Tokenizer
from rl_data.testing import check_source, tiny_tokenizer

Write = Callable[..., str]


def openhermes_row(question: str, answer: str = "4") -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def messages_row(question: str, answer: str = "4") -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def source_of(path: str, tokenizer: Tokenizer, **settings: object) -> ConversationSource:
    return ConversationSource(ConversationDataConfig(prompt_data=path, **settings), tokenizer)


def test_both_schemas_give_the_same_samples(tokenizer: Tokenizer, write_jsonl: Write):
    system = {"from": "system", "value": "Be brief."}, {"role": "system", "content": "Be brief."}
    rows = openhermes_row("2+2?"), messages_row("2+2?")
    rows[0]["conversations"].insert(0, system[0])
    rows[1]["messages"].insert(0, system[1])
    one, other = (
        source_of(write_jsonl([row], name=f"{name}.jsonl"), tokenizer).next_batch(1)[0]
        for name, row in zip("ab", rows, strict=True)
    )
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.loss_mask.tolist() == other.loss_mask.tolist()
    assert tokenizer.decode(one.tokens.tolist()).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )


def test_a_sample_begins_to_train_where_its_prompt_ends(tokenizer: Tokenizer, write_jsonl: Write):
    (sample,) = source_of(write_jsonl([messages_row("2+2?", "four")]), tokenizer).next_batch(1)
    prompt = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(sample.tokens[: sample.prompt_length].tolist()) == prompt
    assert tokenizer.decode(sample.tokens[sample.loss_mask].tolist()) == "four<|im_end|>"
    assert sample.response_text == "four<|im_end|>\n"
    assert (sample.group_id, sample.spans, sample.reward) == ("0-0", (), None)
    assert not sample.rollout_logprobs.any()


@pytest.mark.parametrize("shuffle", [False, True])
def test_conversations_keep_the_contract_of_sources(tokenizer: Tokenizer, write_jsonl: Write, shuffle: bool):
    path = write_jsonl(openhermes_row(f"question {number}") for number in range(7))
    check_source(lambda: source_of(path, tokenizer, rollout_shuffle=shuffle))


def test_conversations_that_are_too_long_are_dropped_and_counted(tokenizer: Tokenizer, write_jsonl: Write):
    path = write_jsonl([messages_row("a"), messages_row("b", "long " * 50), messages_row("c")])
    source = source_of(path, tokenizer, max_length=100)
    assert [sample.group_id for sample in source.next_batch(3)] == ["0-0", "0-2", "1-0"]
    assert source.num_dropped == 1


def test_cut_conversations_are_listed_and_dropped_where_no_token_to_train_is_left(
    tokenizer: Tokenizer, write_jsonl: Write
):
    rows = [openhermes_row("short"), openhermes_row("x" * 100), openhermes_row("a question of 26 characters")]
    rows[2]["conversations"][1]["value"] = "an answer that is cut"
    path = write_jsonl(rows)
    source = source_of(path, tokenizer, max_length=50, on_long_conversation="cut")
    short, cut = source.next_batch(2)
    assert (source.num_cut, source.num_dropped) == (1, 1)
    assert all(sample.num_loss_tokens > 0 for sample in (short, cut))
    assert len(cut.tokens) == 50
    # The end of the turn is gone: the model is not taught to stop there.
    assert tokenizer.decode(cut.tokens[cut.loss_mask].tolist()) == "an answer that"[: cut.num_loss_tokens]
    assert cut.response_text == tokenizer.decode(cut.tokens[cut.loss_mask].tolist())


@pytest.mark.parametrize("max_length", range(1, 80))
def test_wherever_it_is_cut_a_conversation_has_something_to_train_or_is_dropped_and_listed(
    tokenizer: Tokenizer, write_jsonl: Write, max_length: int
):
    """By hand: in each of two turns 23 tokens of a question and a header, 2 of an answer, and 1 line end."""
    turns = [("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    path = write_jsonl([{"messages": messages}, {"messages": [{"role": "assistant", "content": ""}]}])
    source = source_of(path, tokenizer, max_length=max_length, on_long_conversation="cut")
    first_trained, whole = 23, 2 * (23 + 2 + 1)
    assert len(tokenizer.encode(text)) == first_trained
    if max_length <= 11:  # the header of the short one, of which nothing else is left
        with pytest.raises(DataError, match="every one of 2 rows is longer than wanted"):
            source.next_batch(1)
        return
    items = {item.group_id: item for item in source.next_batch(2)}
    notes = {(note.row, note.fate) for note in source.take_notes() if note.row == 0}
    if max_length <= first_trained:
        assert "0-0" not in items
        assert notes == {(0, RowFate.DROPPED)}
    else:
        assert items["0-0"].num_loss_tokens == sum(position < max_length for position in (23, 24, 49, 50))
        assert notes == ({(0, RowFate.CUT)} if max_length < whole else set())


def test_a_file_of_which_nothing_to_train_fits_is_refused(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl([openhermes_row("x" * 100)]), tokenizer, max_length=50, on_long_conversation="cut")
    with pytest.raises(DataError, match="rows"):
        source.next_batch(1)


def test_a_tool_call_without_content_is_read_as_one_of_empty_content(tokenizer: Tokenizer, write_jsonl: Write):
    row = messages_row("q")
    row["messages"].insert(1, {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]})
    (sample,) = source_of(write_jsonl([row]), tokenizer).next_batch(1)
    assert tokenizer.decode(sample.tokens[sample.loss_mask].tolist()) == "<|im_end|>4<|im_end|>"


def test_fields_of_a_message_that_are_null_are_none(write_jsonl: Write):
    """As in a table, where every message has every field. The template asks whether there is a field."""
    template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}"
        "{{- m.tool_calls[0].name if 'tool_calls' in m else m.content }}{{- '<|im_end|>\\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
    tokenizer = tiny_tokenizer(chat_template=template)
    rows: list[dict[str, object]] = [
        {"role": "user", "content": "q", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]},
        {"role": "assistant", "content": "a", "tool_calls": None},
    ]
    (sample,) = source_of(write_jsonl([{"messages": rows}]), tokenizer).next_batch(1)
    assert tokenizer.decode(sample.tokens[sample.loss_mask].tolist()) == "add<|im_end|>a<|im_end|>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (messages_row("q"), r"rows.jsonl:2: expected key 'conversations', found keys \['messages'\]"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "expected a message of the assistant to train on"),
        ({"conversations": [{"from": "robot", "value": "q"}]}, r"turn 0: expected a speaker of .*, found text 'robot'"),
        ({"conversations": [{"from": "human"}]}, r"turn 0 \(human\): expected value as text, found null"),
        ({"conversations": [{"role": "user", "content": "q"}]}, "turn 0: expected an object with from and value"),
        ({"conversations": "q"}, "expected a list of messages, found text 'q'"),
    ],
)
def test_validation_names_the_first_bad_row(tokenizer: Tokenizer, write_jsonl: Write, row: object, message: str):
    source = source_of(write_jsonl([openhermes_row("fine"), row]), tokenizer)
    with pytest.raises(DataError, match=message):
        source.validate()


def test_a_first_row_without_either_key_is_refused(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl([{"text": "q"}]), tokenizer)
    with pytest.raises(DataError, match=r"rows.jsonl:1: expected key 'messages', found keys \['text'\]"):
        source.validate()
