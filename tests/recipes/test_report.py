"""The report of a run: what the page holds, what it leaves out, and which inputs it refuses."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.errors import UsageError
from recipes.report import write_report
from rl_data import FinishReason, Sample, VersionSpan
from rl_data.testing import make_sample, tiny_tokenizer
from rl_data.wire import append_samples

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)><!-- <script>"
NUM_STEPS = 6


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return folder


def text_sample(prompt, response, *, step, index=0, reward=1.0, group_id="0-0"):
    """A sample whose tokens are the bytes of its texts, as the tiny tokenizer has them."""
    tokenizer = tiny_tokenizer()
    prompt_tokens, response_tokens = tokenizer.encode(prompt), tokenizer.encode(response)
    length = len(prompt_tokens) + len(response_tokens)
    mask = np.arange(length) >= len(prompt_tokens)
    return Sample(
        group_id=group_id,
        index=index,
        tokens=np.array([*prompt_tokens, *response_tokens], dtype=np.int32),
        prompt_length=len(prompt_tokens),
        loss_mask=mask,
        rollout_logprobs=np.where(mask, -0.25, 0.0).astype(np.float32),
        spans=(VersionSpan(len(prompt_tokens), length, step),),
        reward=reward,
        response_text=response,
        label="22",
        metadata={"step": step},
    )


def write_metrics(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def grpo_record(step, **fields):
    seconds = {"generate": 1.0, "grade": 0.1, "train": 0.5, "publish": 0.1, "step": 2.0}
    return {"phase": "grpo", "step": step, "reward_mean": step / 10, "seconds": seconds, **fields}


def make_run(folder, tokenizer_folder):
    """A run of 10 SFT steps and 6 GRPO steps, with a hostile response in each of them."""
    sft = [{"phase": "sft", "step": step, "loss": 2.0 / step, "grad_norm": 1.0} for step in range(1, 11)]
    grpo = [
        grpo_record(step, loss=0.1 * step, grad_norm=0.5, logprob_abs_diff=1e-6 * step, response_length_mean=12.0)
        for step in range(1, NUM_STEPS + 1)
    ]
    evaluations = [
        {"phase": "eval", "step": 0, "accuracy": 0.25},
        {"phase": "eval", "step": NUM_STEPS, "accuracy": 0.75},
    ]
    write_metrics(folder, [*sft, evaluations[0], *grpo, evaluations[1]])
    for step in range(1, NUM_STEPS + 1):
        append_samples(
            folder / "samples.jsonl",
            [
                text_sample("What is 17 + 5?", f"answer of step {step}", step=step, index=0),
                text_sample("What is 17 + 5?", HOSTILE, step=step, index=1, reward=0.0),
            ],
        )
    (folder / "model").mkdir()
    for file in tokenizer_folder.iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    summary = {"reward_first": 0.123, "reward_last": 0.987, "seconds": 125.0, "steps": NUM_STEPS, "seed": 0}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("lr: 0.0005\n")
    return folder


class _Elements(html.parser.HTMLParser):
    """Names and attributes of the elements of a page, as a browser sees them, and the text of the data element."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes, self.data, self._is_data = [], [], "", False

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes.extend(attrs)
        self._is_data = ("id", "report-data") in attrs

    def handle_endtag(self, tag):
        self._is_data = False

    def handle_data(self, data):
        self.data += data if self._is_data else ""


def parse(page):
    elements = _Elements()
    elements.feed(page.read_text())
    return elements


def report_data(page):
    return json.loads(parse(page).data)


def shown_text(data, sample):
    return "".join(data["token_texts"][token] for token in sample["tokens"])


@pytest.fixture(scope="module")
def page(tmp_path_factory, tokenizer_folder):
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "demo", tokenizer_folder))


def test_page_holds_each_step_with_its_samples_rewards_and_logprobs(page):
    data = report_data(page)
    assert [step["step"] for step in data["steps"]] == list(range(1, NUM_STEPS + 1))
    (group,) = data["steps"][2]["groups"]
    assert (group["prompt"], group["label"]) == ("What is 17 + 5?", "22")
    first, second = group["samples"]
    assert shown_text(data, first) == "answer of step 3"
    assert (first["reward"], second["reward"]) == (1.0, 0.0)
    assert first["logprobs"] == [-0.25] * len("answer of step 3")
    assert first["policy_versions"] == [3]


def test_curves_hold_the_metrics(page):
    figures = {figure["name"]: figure for figure in report_data(page)["figures"]}
    (reward,) = figures["reward"]["traces"]
    assert reward["x"] == [1, 2, 3, 4, 5, 6]
    assert reward["y"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert figures["accuracy"]["traces"][0]["y"] == [0.25, 0.75]
    assert len(figures["loss-sft"]["traces"][0]["y"]) == 10
    assert figures["logprob-diff"]["layout"]["yaxis"]["type"] == "log"


def test_each_evaluation_set_has_a_line_of_its_own(tmp_path):
    records = [
        {"phase": "eval", "step": step, "data_set": name, "accuracy": accuracy}
        for step, name, accuracy in ((0, "aime", 0.1), (0, "math", 0.3), (5, "aime", 0.2), (5, "math", 0.6))
    ]
    write_metrics(tmp_path, records)
    (figure,) = report_data(write_report(tmp_path))["figures"]
    assert {trace["name"]: trace["y"] for trace in figure["traces"]} == {"aime": [0.1, 0.2], "math": [0.3, 0.6]}
    assert figure["layout"]["showlegend"] is True


def test_rewards_outside_of_zero_and_one_stay_on_the_axis(tmp_path):
    write_metrics(tmp_path, [grpo_record(1, reward_mean=-0.5), grpo_record(2, reward_mean=0.5)])
    figures = {figure["name"]: figure for figure in report_data(write_report(tmp_path))["figures"]}
    low, high = figures["reward"]["layout"]["yaxis"]["range"]
    assert low < -0.5
    assert high > 1.0


def test_parts_of_a_step_are_stacked_up_to_its_whole_time(page):
    (figure,) = [figure for figure in report_data(page)["figures"] if figure["name"] == "time-grpo"]
    heights = {trace["name"]: trace["y"][0] for trace in figure["traces"]}
    # The whole is 2.0 s and the four parts take 1.7 s; the sum of decimals is exact to rounding only.
    assert heights == {"generate": 1.0, "grade": 0.1, "train": 0.5, "publish": 0.1, "other": pytest.approx(0.3)}


def test_page_needs_no_network_and_holds_the_plotting_library_once(page):
    text = page.read_text()
    attributes = parse(page).attributes
    assert not [value for name, value in attributes if name in ("src", "href") and not value.startswith("data:")]
    assert "default-src 'none'" in text
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert page.stat().st_size < 8e6


def test_hostile_text_in_a_response_opens_no_element(page):
    assert "img" not in parse(page).names
    assert HOSTILE not in page.read_text()
    data = report_data(page)
    assert shown_text(data, data["steps"][0]["groups"][0]["samples"][1]) == HOSTILE


def test_hostile_text_in_the_configuration_and_the_folders_name_opens_no_element(tmp_path):
    run_dir = tmp_path / "<img onerror=alert(1)>"
    write_metrics(run_dir, [grpo_record(1)])
    (run_dir / "config.yaml").write_text(HOSTILE)
    elements = parse(write_report(run_dir))
    assert "img" not in elements.names
    assert elements.names.count("script") == 3


def test_summary_stands_at_the_head(page):
    text = page.read_text()
    assert "0.12 \u2192 0.99" in text
    assert "2 min 5 s" in text


def test_long_runs_are_thinned_and_the_page_says_so(tmp_path):
    write_metrics(tmp_path, [grpo_record(step) for step in range(1, 101)])
    for step in range(1, 101):
        samples = [
            make_sample(group_id=f"0-{step}", index=index, reward=0.0, metadata={"step": step}) for index in range(20)
        ]
        append_samples(tmp_path / "samples.jsonl", samples)
    page = write_report(tmp_path)
    steps = report_data(page)["steps"]
    assert (len(steps), steps[0]["step"], steps[-1]["step"]) == (40, 1, 100)
    assert {len(step["groups"][0]["samples"]) for step in steps} == {16}
    assert "40 of 100 steps are shown" in page.read_text()
    assert "800 samples 640 are shown" in page.read_text()
    assert "tokens are shown by their ids" in page.read_text()


def test_a_long_response_keeps_its_beginning_and_its_end(tmp_path, tokenizer_folder):
    run_dir = make_run(tmp_path / "run", tokenizer_folder)
    long = text_sample("p", "a" * 500 + "b" * 500, step=9)
    append_samples(run_dir / "samples.jsonl", [long])
    page = write_report(run_dir)
    data = report_data(page)
    (sample,) = data["steps"][-1]["groups"][0]["samples"]
    assert shown_text(data, sample) == "a" * 200 + "b" * 100
    assert (sample["gap_after"], sample["length"]) == (200, 1000)
    assert "1 long responses lack their middle" in page.read_text()


def test_page_stays_small_however_large_the_samples_are(tmp_path):
    write_metrics(tmp_path, [grpo_record(1)])
    for step in range(40):
        samples = [
            make_sample(
                group_id=f"{step}-{index}",
                prompt_length=1500,
                response_length=400,
                reward=0.0,
                finish_reason=FinishReason.LENGTH,
                metadata={"step": step},
            )
            for index in range(16)
        ]
        append_samples(tmp_path / "samples.jsonl", samples)
    page = write_report(tmp_path)
    assert page.stat().st_size < 8e6
    assert 1 < len(report_data(page)["steps"]) < 40


def test_tokens_of_others_have_no_logprob_and_failures_say_why(tmp_path):
    write_metrics(tmp_path, [grpo_record(1)])
    sample = make_sample(metadata={"step": 1}, response_length=4, prompt_length=3)
    mask = sample.loss_mask.copy()
    mask[4] = False
    logprobs = np.where(mask, sample.rollout_logprobs, 0.0).astype(np.float32)
    failed = replace(sample, loss_mask=mask, rollout_logprobs=logprobs).with_error("grader ran out of time")
    append_samples(tmp_path / "samples.jsonl", [failed])
    (shown,) = report_data(write_report(tmp_path))["steps"][0]["groups"][0]["samples"]
    assert [logprob is None for logprob in shown["logprobs"]] == [False, True, False, False]
    assert (shown["error"], shown["reward"], shown["finish_reason"]) == ("grader ran out of time", None, "error")


def test_a_diverged_step_leaves_a_gap_in_the_curve(tmp_path):
    records = [grpo_record(1, loss=0.5), grpo_record(2, loss=float("nan")), grpo_record(3, loss=float("inf"))]
    write_metrics(tmp_path, records)
    figures = {figure["name"]: figure for figure in report_data(write_report(tmp_path))["figures"]}
    assert figures["loss-grpo"]["traces"][0]["y"] == [0.5, None, None]


def test_a_run_of_sft_alone_has_a_page_without_curves_of_grpo(tmp_path):
    write_metrics(tmp_path, [{"phase": "sft", "step": 1, "loss": 2.0}])
    page = write_report(tmp_path)
    assert [figure["name"] for figure in report_data(page)["figures"]] == ["loss-sft"]
    assert "no samples.jsonl" in page.read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_the_start_of_a_last_line_is_left_out_with_a_note(tmp_path, tokenizer_folder, name):
    run_dir = make_run(tmp_path / "run", tokenizer_folder)
    before = report_data(write_report(run_dir))
    with (run_dir / name).open("a") as out:
        out.write('{"phase": "grpo", "step"')
    page = write_report(run_dir)
    assert report_data(page) == before
    assert f"The last line of {name} is not whole yet" in page.read_text()


def test_until_a_run_has_a_model_its_tokens_are_those_of_the_model_that_it_started_on(tmp_path, tokenizer_folder):
    run_dir = make_run(tmp_path / "run", tokenizer_folder)
    shutil.rmtree(run_dir / "model")
    (run_dir / "config.yaml").write_text(f'run-dir: "{run_dir}"\nhf-checkpoint: "{tokenizer_folder}"\n')
    data = report_data(write_report(run_dir))
    (group,) = data["steps"][0]["groups"]
    assert group["prompt"] == "What is 17 + 5?"
    assert shown_text(data, group["samples"][0]) == "answer of step 1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "at least one whole line"),
        ("{", r"metrics\.jsonl:2: expected a JSON object"),
        ('{"phase": "sft"}', r"metrics\.jsonl:2: .*missing required field `step`"),
        ('{"phase": "warmup", "step": 1}', r"metrics\.jsonl:2: .*warmup"),
        ('{"phase": "grpo", "step": 1, "reward_mean": "high"}', r"metrics\.jsonl:2: .*reward_mean"),
    ],
)
def test_broken_metrics_are_named_by_file_and_line_and_no_page_is_written(tmp_path, line, message):
    (tmp_path / "metrics.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UsageError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_broken_samples_are_named_by_file_and_line(tmp_path):
    write_metrics(tmp_path, [grpo_record(1)])
    (tmp_path / "samples.jsonl").write_text('{"metadata": {}}\n')
    with pytest.raises(UsageError, match=r"samples\.jsonl:1: expected a sample with its step"):
        write_report(tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"schema_version": 99, "metadata": {"step": 1}}\n')
    with pytest.raises(UsageError, match=r"samples\.jsonl:1: expected schema_version 1, found 99"):
        write_report(tmp_path)


def test_a_broken_summary_or_tokenizer_is_named(tmp_path):
    write_metrics(tmp_path, [grpo_record(1)])
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(UsageError, match=r"summary\.json: expected a JSON object"):
        write_report(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json: expected a tokenizer"):
        write_report(tmp_path)


def test_command_writes_the_page_or_says_in_one_line_why_not(tmp_path):
    write_metrics(tmp_path / "run", [grpo_record(1)])
    command = [sys.executable, "-m", "recipes.report"]
    done = subprocess.run([*command, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "run" / "report.html"))
    failed = subprocess.run([*command, tmp_path / "no"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "expected the folder of a run, found nothing" in failed.stderr
