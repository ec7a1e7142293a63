from collections.abc import Callable

import pytest

from rl_data import DataError, GraderPool, PromptDataConfig, PromptSource, Tokenizer
from rl_data.testing import check_source

Write = Callable[..., str]


def dapo_row(question: str, label: object = "34") -> dict[str, object]:
    return {"prompt": [{"role": "user", "content": question}], "label": label}


def source_of(path: str, tokenizer: Tokenizer, **settings: object) -> PromptSource:
    fields = {"input_key": "prompt", "label_key": "label", "apply_chat_template": True, **settings}
    return PromptSource(PromptDataConfig(prompt_data=path, **fields), tokenizer)


def test_a_row_becomes_the_tokens_of_its_rendered_messages(tokenizer: Tokenizer, write_jsonl: Write):
    row = {**dapo_row("2+2?", "4"), "metadata": {"source": "made up"}}
    (prompt,) = source_of(write_jsonl([row]), tokenizer).next_batch(1)
    assert prompt.text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompt.tokens.tolist()) == prompt.text
    assert (prompt.label, prompt.metadata, prompt.group_id) == ("4", {"source": "made up"}, "0-0")


def test_text_is_taken_as_it_is_or_as_a_users_message(tokenizer: Tokenizer, write_jsonl: Write):
    path = write_jsonl([{"input": "2+2="}])
    (raw,) = PromptSource(PromptDataConfig(prompt_data=path), tokenizer).next_batch(1)
    assert raw.text == "2+2="
    (chat,) = PromptSource(PromptDataConfig(prompt_data=path, apply_chat_template=True), tokenizer).next_batch(1)
    assert chat.text == "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"


def test_template_arguments_and_tools_reach_the_template(write_jsonl: Write):
    from rl_data.testing import tiny_tokenizer

    template = "{{ tools[0].name if tools else 'no tools' }} {{ enable_thinking }}"
    path = write_jsonl([{**dapo_row("q"), "tools": [{"name": "calculator"}]}, {**dapo_row("q"), "tools": []}])
    arguments = {"enable_thinking": False}
    source = source_of(path, tiny_tokenizer(chat_template=template), apply_chat_template_kwargs=arguments)
    assert [prompt.text for prompt in source.next_batch(2)] == ["calculator False", "no tools False"]


def test_labels_that_the_grader_cannot_take_are_named_with_their_row(tokenizer: Tokenizer, write_jsonl: Write):
    rows = [dapo_row("q", "#### 4"), {**dapo_row("q", "pi"), "metadata": {"rm_type": "boxed"}}]
    with GraderPool("gsm8k") as graders:
        for bad, message in (
            (dapo_row("q", "pi"), "gsm8k: expected a label that is a number, got 'pi'"),
            ({**dapo_row("q"), "metadata": {"rm_type": "psychic"}}, "rm_type: expected one of "),
        ):
            path = write_jsonl([*rows, bad])
            source_of(path, tokenizer).validate()
            config = PromptDataConfig(prompt_data=path, input_key="prompt", label_key="label", apply_chat_template=True)
            with pytest.raises(DataError) as error:
                PromptSource(config, tokenizer, check_label=graders.check_label).validate()
            assert str(error.value).startswith(f"{path}:3: {message}")


def test_one_short_prompt_among_long_ones_is_found_in_every_epoch_whatever_its_order(
    tokenizer: Tokenizer, write_jsonl: Write
):
    path = write_jsonl([dapo_row("short"), dapo_row("x" * 500), dapo_row("y" * 500)])
    source = source_of(path, tokenizer, rollout_max_prompt_len=100, rollout_shuffle=True)
    assert [prompt.row for prompt in source.next_batch(20)] == [0] * 20


@pytest.mark.parametrize("shuffle", [False, True])
def test_prompts_keep_the_contract_of_sources(tokenizer: Tokenizer, write_jsonl: Write, shuffle: bool):
    path = write_jsonl(dapo_row(f"question {number}") for number in range(7))
    check_source(lambda: source_of(path, tokenizer, rollout_shuffle=shuffle, rollout_seed=5))


def test_without_shuffling_rows_come_in_the_order_of_the_file(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl(dapo_row(f"q{number}", str(number)) for number in range(3)), tokenizer)
    assert [prompt.label for prompt in source.next_batch(4)] == ["0", "1", "2", "0"]
    assert source.epoch == 1


def test_every_epoch_is_shuffled_anew(tokenizer: Tokenizer, write_jsonl: Write):
    path = write_jsonl(dapo_row(f"q{number}") for number in range(50))
    source = source_of(path, tokenizer, rollout_shuffle=True)
    epochs = [[prompt.row for prompt in source.next_batch(50)] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))


def test_prompts_that_are_too_long_are_dropped_and_counted(tokenizer: Tokenizer, write_jsonl: Write):
    path = write_jsonl([dapo_row("short", "a"), dapo_row("x" * 500, "b"), dapo_row("short", "c")])
    source = source_of(path, tokenizer, rollout_max_prompt_len=100)
    assert [prompt.label for prompt in source.next_batch(4)] == ["a", "c", "a", "c"]
    assert source.num_dropped == 2
    resumed = source_of(path, tokenizer, rollout_max_prompt_len=100)
    resumed.load_state_dict(source.state_dict())
    assert resumed.num_dropped == 2
    assert [prompt.label for prompt in source.one_epoch()] == ["a", "c"]


def test_a_file_of_too_long_prompts_ends_in_an_error_and_not_in_a_loop(tokenizer: Tokenizer, write_jsonl: Write):
    path = write_jsonl([dapo_row("x" * 500), dapo_row("y" * 500)])
    with pytest.raises(DataError, match="every one of 2 rows is longer than wanted"):
        source_of(path, tokenizer, rollout_max_prompt_len=100).next_batch(1)


def test_one_epoch_gives_every_prompt_and_leaves_the_position(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl(dapo_row(f"q{n}", str(n)) for n in range(3)), tokenizer, rollout_shuffle=True)
    source.next_batch(1)
    before = source.state_dict()
    assert [prompt.label for prompt in source.one_epoch()] == ["0", "1", "2"]
    assert source.state_dict() == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "2+2?", "label": "4"}, r":2: expected key 'prompt', found keys \['label', 'question'\]"),
        (dapo_row("q", 34), r":2: key 'label': label must be text, got int 34"),
        (dapo_row("q", None), r":2: key 'label': label must be text, got null"),
        ({"prompt": [{"role": "user", "content": "q"}]}, r":2: expected key 'label', found keys \['prompt'\]"),
        ({"prompt": 7, "label": "4"}, r":2: key 'prompt': expected a list of messages, found int 7"),
        ({"prompt": [], "label": "4"}, r":2: key 'prompt': expected a list of messages, found an empty list"),
        ({"prompt": ["q"], "label": "4"}, r":2: key 'prompt', message 0: expected an object with role and content"),
        ({"prompt": [{"role": "oracle", "content": "q"}], "label": "4"}, r"expected a role of .*, found text 'oracle'"),
        ({"prompt": [{"role": "user"}], "label": "4"}, r"message 0 \(user\): expected content as text, found none"),
        ({"prompt": [{"role": "user", "content": 1}], "label": "4"}, r"expected content as text, found int 1"),
        ({**dapo_row("q"), "metadata": "text"}, r":2: key 'metadata': expected an object, found text 'text'"),
        ({**dapo_row("q"), "tools": [1]}, r":2: key 'tools': expected a list of tool definitions, found list \[1\]"),
    ],
)
def test_validation_names_file_line_key_and_what_was_found(
    tokenizer: Tokenizer, write_jsonl: Write, row: object, message: str
):
    source = source_of(write_jsonl([dapo_row("fine"), row]), tokenizer)
    with pytest.raises(DataError, match=r"rows.jsonl" + (message if message[0] == ":" else ".*" + message)):
        source.validate()


def test_messages_without_a_template_are_refused_with_the_flag_to_set(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl([dapo_row("q")]), tokenizer, apply_chat_template=False)
    with pytest.raises(DataError, match=r"a list of messages needs --apply-chat-template"):
        source.validate()


def test_raw_text_that_is_empty_is_found_before_it_is_asked_for(tokenizer: Tokenizer, write_jsonl: Write):
    rows = [{"prompt": "q", "label": "4"}, {"prompt": "", "label": "4"}]
    source = source_of(write_jsonl(rows), tokenizer, apply_chat_template=False)
    with pytest.raises(DataError, match=r":2: key 'prompt': expected a prompt, found an empty text"):
        source.validate()


def test_validation_passes_over_a_good_file_and_leaves_the_position(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl(dapo_row(f"q{number}") for number in range(3)), tokenizer)
    source.validate()
    assert source.next_batch(1)[0].row == 0


def test_a_tokenizer_without_a_template_is_refused_at_once(write_jsonl: Write):
    from rl_data.testing import tiny_tokenizer

    with pytest.raises(DataError, match="no chat template"):
        source_of(write_jsonl([dapo_row("q")]), tiny_tokenizer(chat_template=""))


def test_what_a_template_refuses_is_named_with_its_line(write_jsonl: Write):
    from rl_data.testing import tiny_tokenizer

    template = "{{ raise_exception('system messages are not known') if messages[0].role == 'system' }}ok"
    path = write_jsonl([dapo_row("q"), {"prompt": [{"role": "system", "content": "s"}], "label": "1"}])
    with pytest.raises(DataError, match=r"rows.jsonl:2: the chat template refuses .*: system messages are not known"):
        source_of(path, tiny_tokenizer(chat_template=template)).next_batch(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 2}, "was saved while reading other rows: it has 3, now there are 2"),
        ({"label": "35"}, "was saved while reading other rows: it has 3 with fingerprint"),
        ({"rollout_seed": 6}, "has seed 5, expected 6: it must not change"),
        ({"rollout_shuffle": False}, "has shuffle True, expected False"),
    ],
)
def test_a_state_of_other_data_or_another_order_is_refused(
    tokenizer: Tokenizer, write_jsonl: Write, changes: dict[str, object], message: str
):
    settings = {"rollout_shuffle": True, "rollout_seed": 5}
    saved = source_of(write_jsonl([dapo_row("q")] * 3), tokenizer, **settings).state_dict()
    settings |= {key: value for key, value in changes.items() if key in settings}
    rows = [dapo_row("q", changes.get("label", "34"))] * int(str(changes.get("rows", 3)))
    other = source_of(write_jsonl(rows, name="other.jsonl"), tokenizer, **settings)
    with pytest.raises(DataError, match=message):
        other.load_state_dict(saved)


def test_a_damaged_state_is_refused(tokenizer: Tokenizer, write_jsonl: Write):
    source = source_of(write_jsonl([dapo_row("q")]), tokenizer)
    with pytest.raises(DataError, match=r"lacks \['epoch'\]"):
        source.load_state_dict({key: value for key, value in source.state_dict().items() if key != "epoch"})
    for changes in ({"position": 1}, {"position": -1}, {"epoch": "0"}, {"num_rows": None}):
        with pytest.raises(DataError, match="the saved data position is damaged"):
            source.load_state_dict({**source.state_dict(), **changes})
