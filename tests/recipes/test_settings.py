"""Settings that do nothing or make no sense together are refused; what does not fit is left out and counted."""

import json
import math
import shutil

import pytest

from bench.model_configs import MODEL_CONFIGS
from recipes.arguments import UsageError
from recipes.bad_rows import tell_bad_rows
from recipes.config import BatchConfig, EnginePlacementConfig, EvalConfig
from recipes.config.limits import token_budget
from recipes.console import StepConsole
from recipes.grpo.config import read_job as read_grpo
from recipes.grpo.evaluation import EvalSet, eval_data, eval_grading, eval_sampling, open_eval_graders
from recipes.grpo.limits import check_host_memory, engine_rooms, parked_bytes, prompt_limit
from recipes.grpo.record import eval_record, grpo_record
from recipes.run_folder import RunFolder, check_folder
from recipes.sft.config import read_job as read_sft
from rl_data import DataError, GraderConfig, GraderPool, PromptDataConfig, RowFate, RowNote
from rl_rollout import EvalReport, RolloutConfig, RolloutResult
from rl_rollout.sglang.arguments import SGLangArguments
from rl_train.errors import HostMemoryError
from rl_train.megatron.arguments import MegatronArguments
from rl_train.trainer import StepResult
from rl_weights import HFCheckpoint
from tests.recipes.short_runs import words_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--prompt-data-weights 1 2", "--prompt-data-weights: expected one for each of 1 data sets, got 2"),
        ("--max-bad-row-share 7", "--max-bad-row-share 7.0: expected a share from 0 to 1"),
        ("--on-bad-row ignore", "--on-bad-row ignore: expected one of stop, skip"),
        ("--eval-interval 5", "--eval-interval has no effect without --eval-prompt-data"),
        ("--eval-temperature 0", "--eval-temperature has no effect without --eval-prompt-data"),
        ("--eval-label-key answer", "--eval-label-key has no effect without --eval-prompt-data"),
        ("--skip-eval-before-train", "--skip-eval-before-train has no effect without --eval-prompt-data"),
        ("--n-samples-per-eval-prompt 4", "--n-samples-per-eval-prompt has no effect without --eval-prompt-data"),
        ("--eval-top-p 1.5", "--eval-top-p 1.5: expected a share above 0, at most 1"),
        ("--eval-top-p 0", "--eval-top-p 0.0: expected a share above 0, at most 1"),
        ("--eval-top-k 0", "--eval-top-k 0: expected -1 or at least 1"),
        ("--eval-top-k -2", "--eval-top-k -2: expected -1 or at least 1"),
        ("--eval-only", "--eval-only: there is nothing to evaluate on; give --eval-prompt-data NAME FILE"),
        ("--eval-settings {", "--eval-settings {: expected a JSON object"),
        (
            '--eval-settings {"x":{}}',
            "--eval-settings x: expected a data set of --eval-prompt-data, which has none",
        ),
        ('--eval-prompt-data x y --eval-settings {"x":3}', "--eval-settings x: expected an object of flags to values"),
        (
            '--eval-prompt-data x y --eval-settings {"x":{"eval-interval":3}}',
            "--eval-settings x: eval-interval: expected one of n-samples-per-eval-prompt, eval-temperature, ",
        ),
        (
            '--eval-prompt-data x y --eval-settings {"x":{"eval-top-k":"3"}}',
            "--eval-settings x: eval-top-k: expected a whole number, got '3'",
        ),
        (
            '--eval-prompt-data x y --eval-settings {"x":{"eval-top-p":2}}',
            "--eval-settings x: --eval-top-p 2: expected a share above 0, at most 1",
        ),
        ("--ref-load .", "--ref-load . has no effect without --use-kl-loss"),
        ("--offload-train", "--offload-train: has no effect without --colocate"),
        ("--offload-rollout", "--offload-rollout: has no effect without --colocate"),
        (
            "--colocate --no-offload-train --offload-train-parameters",
            "--offload-train-parameters: has no effect with --no-offload-train",
        ),
        ("--rollout-num-gpus-per-engine 0", "--rollout-num-gpus-per-engine 0: expected at least 1"),
        (
            "--rollout-num-gpus 3 --rollout-num-gpus-per-engine 2",
            "--rollout-num-gpus 3: expected a multiple of --rollout-num-gpus-per-engine 2",
        ),
        (
            "--rollout-num-gpus-per-engine 3",
            "--rollout-num-gpus-per-engine 3: config.json has num_attention_heads 4, of which each GPU",
        ),
        ("--colocate --rollout-num-gpus 3", "--rollout-num-gpus 3: with --colocate expected at most the trainer's 2"),
        (
            "--colocate --rollout-num-gpus-per-engine 4",
            "--rollout-num-gpus-per-engine 4: with --colocate an engine has GPUs of one node's ranks; expected "
            "a divisor of --actor-num-gpus-per-node 2",
        ),
        (
            "--rollout-external-engine-addrs host",
            "--rollout-external-engine-addrs: engine address 'host': expected HOST:PORT or http://HOST:PORT",
        ),
        (
            "--rollout-external-engine-addrs h:1 http://h:1",
            "--rollout-external-engine-addrs h:1 http://h:1: expected each",
        ),
        (
            "--rollout-external-engine-addrs h:1 --colocate",
            "--colocate has no effect with --rollout-external-engine-addrs",
        ),
        (
            "--rollout-external-engine-addrs h:1 --rollout-num-gpus 1",
            "--rollout-num-gpus has no effect with --rollout-external-engine-addrs",
        ),
        (
            "--rollout-external-engine-addrs h:1",
            "--rollout-external-engine-addrs: expected --update-weight-transport disk, in mode full",
        ),
        (
            "--rollout-external-engine-addrs h:1 --update-weight-transport disk --check-weight-update-equal",
            "--check-weight-update-equal: with --rollout-external-engine-addrs nobody tells what an engine holds",
        ),
        (
            "--rollout-external-engine-addrs h:1 --update-weight-transport disk --sglang-page-size 1",
            "--sglang-page-size: with --rollout-external-engine-addrs it belongs to the command that starts the server",
        ),
        ("--n-samples-per-prompt 1", "--n-samples-per-prompt 1: nothing is learned under --advantage-estimator grpo"),
        (
            "--n-samples-per-prompt 1 --advantage-estimator rloo",
            "--n-samples-per-prompt 1: nothing is learned under --advantage-estimator rloo",
        ),
        ("--advantage-estimator maxrl --rm-type dapo", "--advantage-estimator maxrl: it takes no rewards below 0"),
        ("--rm-type maths", "--rm-type: expected one of"),
        ("--rm-type math+custom", "--rm-type custom: --custom-rm-path is missing"),
        ("--rm-type remote", "--rm-type remote: --rm-url is missing"),
        ("--rm-type dapo+overlong", "--rm-type overlong: --overlong-buffer-len is missing"),
        ("--rm-url somewhere", "--rm-url somewhere: expected an address that begins with http:// or https://"),
        ("--rm-num-workers 0", "--rm-num-workers 0: expected at least 1"),
        ("--rollout-top-p 0.9", "--rollout-top-p 0.9: expected 1; samples of a truncated distribution"),
        ("--rollout-top-k 20", "--rollout-top-k 20: expected -1; samples of a truncated distribution"),
    ],
)
def test_a_setting_without_effect_or_sense_is_refused_by_name(words, message, inputs, tmp_path):
    with pytest.raises(UsageError) as error:
        read_grpo(words_of("tiny_math", inputs, tmp_path, *words.split()))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rollout-top-p 1.5", "--rollout-top-p 1.5: expected a number in (0, 1]"),
        ("--rollout-temperature 0", "--rollout-temperature 0.0: expected a number above 0"),
        (
            "--rollout-batch-size 4 --over-sampling-batch-size 3",
            "--over-sampling-batch-size 3: expected at least --rollout-batch-size 4",
        ),
        ("--engine-num-threads 0", "--engine-num-threads 0: expected a number above 0"),
        ("--trainer-threads 0", "--trainer-threads 0: expected at least 1"),
        ("--trainer-step-timeout-s 0", "--trainer-step-timeout-s 0.0: expected a positive number of seconds"),
        ("--log-probs-chunk-size 0", "--log-probs-chunk-size 0: expected a positive number"),
        ("--gamma 1.5", "--gamma 1.5: expected a discount in (0, 1]"),
        ("--tis-clip 5", "--tis-clip 5.0 has no effect without --use-tis"),
        ("--use-unbiased-kl", "--use-unbiased-kl has no effect without --use-kl-loss"),
        ("--use-rs", "--use-rs: expected 0 <= --rs-lower-bound < --rs-upper-bound, got None and None"),
        (
            "--advantage-estimator reinforce_plus_plus",
            "--advantage-estimator reinforce_plus_plus whitens by definition: it needs --normalize-advantages",
        ),
        (
            "--advantage-estimator rloo --disable-rewards-normalization",
            "--disable-rewards-normalization has no effect under --advantage-estimator rloo",
        ),
    ],
)
def test_what_a_library_refuses_by_its_field_the_user_reads_by_the_flag(words, message, inputs, tmp_path):
    with pytest.raises(UsageError) as error:
        read_grpo(words_of("tiny_math", inputs, tmp_path, *words.split()))
    assert str(error.value) == message


def test_what_a_library_refuses_is_located_in_the_file_that_said_it(inputs, tmp_path):
    config = tmp_path / "changes.yaml"
    config.write_text("rollout-seed: 1\nrollout-top-p: 1.5\n")
    with pytest.raises(UsageError) as error:
        read_grpo(words_of("tiny_math", inputs, tmp_path, "--config", config))
    assert str(error.value) == f"{config}:2: --rollout-top-p 1.5: expected a number in (0, 1]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("label-key: null\n", "--label-key is missing: --rm-type deepscaler compares with a reference answer"),
        (
            "apply-chat-template: false\napply-chat-template-kwargs: {a: 1}\n",
            "--apply-chat-template-kwargs has no effect without --apply-chat-template",
        ),
    ],
)
def test_what_the_data_needs_is_asked_for(line, message, inputs, tmp_path):
    config = tmp_path / "changes.yaml"
    config.write_text(line)
    with pytest.raises(UsageError) as error:
        read_grpo(words_of("tiny_math", inputs, tmp_path, "--config", config))
    assert str(error.value) == message


@pytest.mark.parametrize("flag", ["--prompt-data", "--eval-prompt-data held-out"])
def test_a_row_that_the_grader_cannot_grade_is_named_before_anything_starts(flag, inputs, tmp_path):
    file = tmp_path / "rows.jsonl"
    good = {"prompt": [{"role": "user", "content": "1 + 1"}], "label": "2"}
    for bad, rm_type, message in (
        ({"label": "two"}, "gsm8k", "gsm8k: expected a label that is a number, got 'two'"),
        ({"label": ""}, "deepscaler", "rm-type deepscaler: expected a label to compare with, got an empty text"),
        ({"metadata": {"rm_type": "psychic"}}, "math", "rm_type: expected one of "),
    ):
        file.write_text(json.dumps(good) + "\n" + json.dumps({**good, **bad}) + "\n")
        with pytest.raises(DataError) as error:
            read_grpo(words_of("tiny_math", inputs, tmp_path, "--rm-type", rm_type, *flag.split(), file))
        assert str(error.value).startswith(f"{file}:2: {message}")


def test_long_responses_are_punished_in_evaluation_by_its_own_longest():
    training = GraderConfig(rm_type="dapo+overlong", overlong_buffer_len=10, rollout_max_response_len=100)
    evaluation = EvalConfig(eval_prompt_data=("x", "x.jsonl"), eval_max_response_len=200)
    with GraderPool(training) as grader, open_eval_graders(evaluation, grader, training) as eval_graders:
        values = [
            [pool.grade_now("Answer: 4", "4", num_tokens=num_tokens).value for num_tokens in (90, 95, 190, 195)]
            for pool in (grader, eval_graders["x"])
        ]
    assert values == [[1.0, 0.5, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5]]


def test_the_evaluation_has_a_grader_of_its_own_only_where_it_grades_otherwise():
    training = GraderConfig(rm_type="dapo", rollout_max_response_len=100)
    assert eval_grading(EvalConfig(eval_max_response_len=200), training) == training
    assert eval_grading(EvalConfig(eval_rm_type="gsm8k"), training).rm_type == "gsm8k"

    shaped = GraderConfig(rm_type="dapo+overlong", overlong_buffer_len=50, rollout_max_response_len=100)
    assert eval_grading(EvalConfig(), shaped) == shaped
    short = EvalConfig(eval_max_response_len=40, eval_rm_type="dapo")
    assert eval_grading(short, shaped).overlong_buffer_len is None
    with pytest.raises(UsageError, match="--overlong-buffer-len 50: expected at most --eval-max-response-len 40"):
        eval_grading(EvalConfig(eval_max_response_len=40), shaped)


def test_each_evaluation_set_can_have_settings_of_its_own():
    rollout = RolloutConfig(rollout_max_response_len=100, rollout_batch_size=1)
    training = GraderConfig(rm_type="dapo", rollout_max_response_len=100)
    config = EvalConfig(
        eval_prompt_data=("plain", "a.jsonl", "long", "b.jsonl", "also", "c.jsonl"),
        eval_temperature=0.5,
        eval_settings={
            "long": {"eval-max-response-len": 400, "n-samples-per-eval-prompt": 16, "eval-rm-type": "gsm8k"},
            "also": {"eval-temperature": 0, "eval-label-key": "answer", "eval-rm-type": "gsm8k"},
        },
    )
    own = {name: config.of_set(name) for name in config.data_sets}
    sampling = {name: eval_sampling(one, rollout) for name, one in own.items()}
    assert [(one.temperature, one.max_new_tokens) for one in sampling.values()] == [(0.5, 100), (0.5, 400), (0, 100)]
    assert [one.n_samples_per_eval_prompt for one in own.values()] == [1, 16, 1]
    data = eval_data(config, PromptDataConfig(prompt_data="train.jsonl", label_key="label"))
    assert [(one.prompt_data, one.label_key) for one in data.values()] == [
        ("a.jsonl", "label"), ("b.jsonl", "label"), ("c.jsonl", "answer")
    ]  # fmt: skip
    with GraderPool(training) as grader, open_eval_graders(config, grader, training) as graders:
        assert graders["plain"] is grader
        assert graders["long"] is graders["also"]
        assert graders["long"].grade_now("#### 5", "5", num_tokens=3).value == 1.0


def megatron(**values):
    return MegatronArguments(argv=(), explicit=frozenset(), values=values)


def test_the_token_budget_is_a_multiple_of_what_sequence_parallelism_pads_to():
    batch = BatchConfig(global_batch_size=1, max_tokens_per_gpu=103)
    assert token_budget(batch, megatron(tensor_model_parallel_size=4, sequence_parallel=True)) == 100
    assert token_budget(batch, megatron(tensor_model_parallel_size=4, sequence_parallel=False)) == 103
    with pytest.raises(UsageError, match="--max-tokens-per-gpu 103: --sequence-parallel needs at least"):
        token_budget(batch, megatron(tensor_model_parallel_size=128, sequence_parallel=True))


def test_a_prompt_leaves_room_for_the_longest_response_in_whatever_is_shortest():
    sglang = SGLangArguments(explicit={"context_length": 80})
    rooms = engine_rooms(megatron(max_position_embeddings=100), sglang)
    response = {"response_flag": "--rollout-max-response-len", "response": 30}
    assert prompt_limit(None, rooms, **response) == 50
    assert prompt_limit(40, rooms, **response) == 40
    assert prompt_limit(60, {"--max-tokens-per-gpu": 70, **rooms}, **response) == 40
    with pytest.raises(UsageError) as error:
        prompt_limit(None, {**rooms, "--max-tokens-per-gpu": 30}, **response)
    assert str(error.value) == (
        "--max-tokens-per-gpu 30: no room for a prompt beside a response of --rollout-max-response-len 30 tokens"
    )


def with_positions(inputs, folder, positions):
    """The inputs with a model of fewer positions."""
    model = folder / "model"
    shutil.copytree(inputs.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    return inputs._replace(model=model)


def rows_of_lengths(file, lengths):
    rows = ({"prompt": [{"role": "user", "content": "1" * length}], "label": "1"} for length in lengths)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
def test_training_prompts_fit_into_a_micro_batch_and_held_out_ones_into_the_model(inputs, parsers, tmp_path):
    # A digit is a token, and the chat template adds a few: about 50, 100 and 220 beside a response of 24.
    train = rows_of_lengths(tmp_path / "train.jsonl", [40, 90, 210])
    held_out = rows_of_lengths(tmp_path / "eval.jsonl", [40, 90, 210])
    small = with_positions(inputs, tmp_path, 200)
    words = ("--prompt-data", train, "--eval-prompt-data", "x", held_out, "--max-tokens-per-gpu", 100)
    job = read_grpo(words_of("tiny_math", small, tmp_path, *words), parsers)
    assert [prompt.row for prompt in job.source.next_batch(2)] == [0, 0]
    assert job.source.num_dropped >= 2
    (eval_set,) = job.eval_sets
    assert ([prompt.row for prompt in eval_set.prompts], eval_set.num_dropped_prompts) == ([0, 1], 1)
    assert [note.message.partition(": ")[0] for note in eval_set.left_out] == [f"{held_out}:3"]
    own = ("--eval-settings", '{"x": {"eval-max-response-len": 300}}')
    with pytest.raises(UsageError, match=r"^--eval-prompt-data x: .* 200: no room .* --eval-max-response-len 300 tok"):
        read_grpo(words_of("tiny_math", small, tmp_path, *words, *own), parsers)


@pytest.mark.slow
def test_conversations_longer_than_the_model_are_left_out_and_counted(inputs, parsers, tmp_path):
    file = tmp_path / "conversations.jsonl"
    turns = [[{"from": "human", "value": "1" * length}, {"from": "gpt", "value": "1"}] for length in (40, 210)]
    file.write_text("".join(json.dumps({"conversations": one}) + "\n" for one in turns))
    small = with_positions(inputs, tmp_path, 200)._replace(conversations=file)
    job = read_sft(words_of("tiny_sft", small, tmp_path), parsers)
    assert {len(sample.tokens) < 200 for sample in job.source.next_batch(4)} == {True}
    assert job.source.num_dropped > 0


@pytest.mark.slow
def test_bad_rows_are_skipped_by_both_recipes_if_told_so(inputs, parsers, tmp_path):
    good, no_number = ({"prompt": [{"role": "user", "content": "1+1?"}], "label": label} for label in ("2", "two"))
    train, held_out = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in (no_number, good, good, good)) + "{nonsense\n")
    held_out.write_text("".join(json.dumps(row) + "\n" for row in (good, no_number)))
    words = ("--prompt-data", train, "--eval-prompt-data", "x", held_out, "--rm-type", "gsm8k", "--on-bad-row", "skip")
    sizes = ("--rollout-batch-size", 1, "--n-samples-per-prompt", 2, "--global-batch-size", 2, "--num-epoch", 1)
    job = read_grpo(words_of("tiny_math", inputs, tmp_path, *words, *sizes, "--max-bad-row-share", 0.5), parsers)
    assert job.num_rollouts == 3  # what is skipped makes no step
    assert sorted(prompt.row for prompt in job.source.next_batch(3)) == [1, 2, 3]
    assert [prompt.row for prompt in job.eval_sets[0].prompts] == [0]
    assert not job.eval_sets[0].left_out  # what is bad is in bad_rows, once
    assert [note.message.partition(": ")[0] for note in job.bad_rows] == [f"{train}:1", f"{train}:5", f"{held_out}:2"]
    with pytest.raises(DataError, match=r"1 of 5 rows are bad, more than --max-bad-row-share 0\.1 lets pass"):
        read_grpo(words_of("tiny_math", inputs, tmp_path, *words, "--max-bad-row-share", 0.1), parsers)

    file = tmp_path / "conversations.jsonl"
    turns = [{"from": "human", "value": "1"}, {"from": "gpt", "value": "1"}]
    file.write_text("".join(json.dumps({"conversations": one}) + "\n" for one in (turns, turns[:1], turns)))
    words = ("--on-bad-row", "skip", "--max-bad-row-share", 0.4, "--global-batch-size", 2, "--num-epoch", 2)
    job = read_sft(words_of("tiny_sft", inputs._replace(conversations=file), tmp_path, *words), parsers)
    assert sorted(sample.group_id for sample in job.source.next_batch(2)) == ["0-0", "0-2"]
    assert [note.row for note in job.bad_rows] == [1]
    assert job.num_steps == 2


def test_what_is_left_out_is_listed_in_the_runs_folder_and_forgotten_with_its_step(tmp_path):
    folder = RunFolder(tmp_path / "run", tmp_path / "checkpoints", config_text="")
    notes = [RowNote(RowFate.BAD, 3, "rows.jsonl:4: bad"), RowNote(RowFate.DROPPED, 5, "rows.jsonl:6: 90 tokens")]
    tell_bad_rows(notes[:1], folder, StepConsole(), is_resumed=False)
    tell_bad_rows(notes[:1], folder, StepConsole(), is_resumed=True)
    folder.log_rows(notes[1:], step=2)
    folder.log_rows(notes[1:], step=3)
    folder.keep_until(2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "left_out_rows.jsonl").read_text().splitlines()]
    assert [(line["step"], line["fate"], line["row"]) for line in lines] == [(0, "bad", 3), (2, "dropped", 5)]


def test_a_failed_start_leaves_a_folder_that_can_be_used_again(tmp_path):
    run, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    for row in (3, 5):
        check_folder(run, checkpoints, config_text="", is_resumed=False)
        folder = RunFolder(run, checkpoints, config_text="")
        tell_bad_rows([RowNote(RowFate.BAD, row, "bad")], folder, StepConsole(), is_resumed=False)
        assert [json.loads(line)["row"] for line in (run / "left_out_rows.jsonl").read_text().splitlines()] == [row]


def test_every_record_counts_the_prompts_that_were_too_long_and_times_parts_that_do_not_overlap():
    metrics = {"generate_s": 1.0, "grade_s": 0.9, "collect_s": 1.25}
    drawn = RolloutResult(groups=(), dropped=(), failed=(), metrics=metrics)
    result = StepResult(
        step=1, loss=0.1, grad_norm=1.0, learning_rate=0.1, is_skipped=False, seconds={},
        metrics={"logprob_abs_diff": 0.0},
    )  # fmt: skip
    taken = {"seconds": {"step": 2.0}, "memory_gib": {"train_resident": 0.5}, "prompts": {"num_dropped_prompts": 7}}
    record = grpo_record(1, drawn, [result], **taken)
    assert record["num_dropped_prompts"] == 7
    # The parts of a step add up: of 0.9 s of grading, generation hid all but a quarter of a second.
    assert record["seconds"] == {"generate": 1.0, "grade": 0.25, "step": 2.0, "switch": 0.0}
    report = EvalReport(
        accuracy=1.0, pass_at_k={1: 1.0}, reward_mean=1.0, response_length_mean=1.0, truncated_share=0.0,
        num_failed_samples=0, num_generate_timeouts=0, num_grader_timeouts=0, num_grader_crashes=0, samples=(),
    )  # fmt: skip
    record = eval_record(0, EvalSet(name="x", config=EvalConfig(), prompts=(), num_dropped_prompts=3), report)
    assert (record["data_set"], record["num_prompts"], record["num_dropped_prompts"]) == ("x", 0, 3)


@pytest.mark.parametrize(
    ("placement", "values", "bytes_per_parameter"),
    [
        ({}, {"bf16": True}, 0),
        ({"colocate": True, "offload_train": False}, {"bf16": True}, 0),
        ({"colocate": True}, {"bf16": False}, 8),
        ({"colocate": True}, {"bf16": True}, 12),
        ({"colocate": True, "offload_train_parameters": True}, {"bf16": True}, 12 + 4 * 2),
        (
            {"colocate": True, "offload_train_parameters": True},
            {"bf16": True, "tensor_model_parallel_size": 2},
            12 + 2 * 2,
        ),
    ],
)
def test_what_moves_into_host_memory_is_counted(inputs, placement, values, bytes_per_parameter):
    model_config = json.loads((inputs.model / "config.json").read_text())
    sizes = {"world_size": 4, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1}
    megatron = MegatronArguments(argv=(), explicit=frozenset(), values={**sizes, **values})
    num_parameters = sum(math.prod(shape) for _, _, shape in HFCheckpoint(inputs.model).specs.values())
    moved = parked_bytes(EnginePlacementConfig(**placement), model_config, megatron)
    assert moved == num_parameters * bytes_per_parameter


def test_what_moves_is_spread_over_the_nodes():
    model_config = {**MODEL_CONFIGS["qwen3-4b"], "num_hidden_layers": 1000}  # 1.2 TB, which no machine has free
    sizes = {"world_size": 4, "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "bf16": True}
    megatron = MegatronArguments(argv=(), explicit=frozenset(), values=sizes)
    placement = EnginePlacementConfig(colocate=True)
    with pytest.raises(HostMemoryError, match=r"--offload-train needs 11.* GiB of host memory"):
        check_host_memory(placement, model_config, megatron, num_nodes=1)
    check_host_memory(placement, model_config, megatron, num_nodes=10_000)
