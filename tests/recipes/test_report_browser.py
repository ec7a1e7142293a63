"""The report in a real browser: it draws, answers to its controls, runs nothing from a response."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from recipes.report import write_report
from recipes.report.screenshot import BROWSER_ARGUMENTS, find_browser
from rl_data import Sample, VersionSpan
from rl_data.testing import tiny_tokenizer
from rl_data.wire import append_samples

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
NUM_STEPS = 24
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine")


def make_samples(step):
    """Two groups of four; later steps earn more, and the log-probabilities differ from token to token."""
    tokenizer = tiny_tokenizer()
    for group in range(2):
        prompt = tokenizer.encode(f"<|im_start|>user\nWhat is {step + 10} + {group + 3}?<|im_end|>\n")
        for index in range(4):
            is_right = index < 4 * step / NUM_STEPS
            total = step + group + 13
            text = f"{step + 10} + {group + 3} = {total}\nAnswer: {total}" if is_right else f"{HOSTILE} {index}"
            response = [*tokenizer.encode(text), *tokenizer.encode("<|im_end|>")]
            length = len(prompt) + len(response)
            mask = np.arange(length) >= len(prompt)
            wave = np.array([-2.5 * (1 + math.sin(t * t)) ** 2 / 4 for t in range(length)])
            yield Sample(
                group_id=f"0-{step}-{group}",
                index=index,
                tokens=np.array([*prompt, *response], dtype=np.int32),
                prompt_length=len(prompt),
                loss_mask=mask,
                rollout_logprobs=np.where(mask, wave, 0.0).astype(np.float32),
                spans=(VersionSpan(len(prompt), length, step),),
                reward=float(is_right),
                response_text=text,
                label=str(total),
                metadata={"step": step},
            )


def metrics():
    for step in range(1, 61):
        yield {
            "phase": "sft",
            "step": step,
            "loss": 2.5 * math.exp(-step / 25),
            "seconds": {"train": 0.2, "step": 0.25},
        }
    yield {"phase": "eval", "step": 0, "accuracy": 0.25}
    for step in range(1, NUM_STEPS + 1):
        generate = 1.0 + 0.1 * math.sin(step)
        yield {
            "phase": "grpo",
            "step": step,
            "reward_mean": 0.9 - 0.7 * math.exp(-step / 8),
            "response_length_mean": 16 + math.sin(step),
            "loss": 0.02 * math.sin(3 * step),
            "grad_norm": 0.6 + 0.2 * math.cos(step),
            "logprob_abs_diff": 1e-6 * (1.2 + math.sin(step)),
            "truncated_share": 0.1 / step,
            "seconds": {
                "generate": generate,
                "grade": 0.1,
                "train": 0.6,
                "publish": 0.1,
                "step": 2.0,
            },
        }
    yield {"phase": "eval", "step": NUM_STEPS, "accuracy": 0.875}


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "demo"
    (run_dir / "model").mkdir(parents=True)
    tiny_tokenizer(run_dir / "model")
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in metrics()))
    for step in range(1, NUM_STEPS + 1):
        append_samples(run_dir / "samples.jsonl", make_samples(step))
    summary = {"reward_first": 0.27, "reward_last": 0.86, "accuracy_before": 0.25, "accuracy_after": 0.875}
    summary |= {"logprob_abs_diff_max": 2.2e-6, "steps": NUM_STEPS, "seconds": 215.0, "seed": 0}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    (run_dir / "config.yaml").write_text("lr: 0.0005\nrollout_batch_size: 16\n")
    return write_report(run_dir)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(BROWSER_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[1280, 390], ids=["wide", "narrow"])
def opened(request, browser, report_file):
    """The report in a window, and what its console said and what it fetched since it was opened."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints, fetched = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(report_file.as_uri())
    page.wait_for_selector("#chart-time-sft .bars path", state="attached")
    yield page, complaints, fetched
    page.close()


@pytest.fixture
def page(opened, report_file):
    """The report at its first step; whatever a test does, the console stays silent and nothing is fetched."""
    page, complaints, fetched = opened
    page.locator("#reward-filter").select_option("all")
    page.locator("#step-slider").fill("0")
    yield page
    assert complaints == []
    assert [url for url in fetched if not url.startswith("data:")] == [report_file.as_uri()]


def test_every_chart_is_drawn(page):
    charts = page.locator(".chart")
    assert charts.count() == 10
    for index in range(charts.count()):
        chart = charts.nth(index)
        assert chart.locator(".trace path").count() > 0, chart.get_attribute("id")
    assert page.locator("#chart-time-grpo .bars .point").count() == 5 * NUM_STEPS


def test_page_is_no_wider_than_its_window(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_choosing_a_step_changes_the_samples(page):
    assert page.locator("#step-name").inner_text() == "Step 1"
    assert "What is 11 + 3?" in page.locator(".prompt").first.inner_text()
    page.locator("#next-step").click()
    assert "What is 12 + 3?" in page.locator(".prompt").first.inner_text()
    page.locator("#step-slider").focus()
    page.keyboard.press("End")
    assert page.locator("#step-name").inner_text() == f"Step {NUM_STEPS}"
    assert "What is 34 + 3?" in page.locator(".prompt").first.inner_text()
    assert page.locator("#next-step").is_disabled()
    assert page.locator(".sample").count() == 8


def test_filter_leaves_the_samples_of_its_kind(page):
    page.locator("#step-slider").fill("11")
    assert page.locator(".sample").count() == 8
    page.locator("#reward-filter").select_option("rewarded")
    assert set(page.locator(".reward").all_inner_texts()) == {"1.00"}
    page.locator("#reward-filter").select_option("failed")
    assert page.locator(".sample").count() == 0
    assert "No sample" in page.locator("#groups").inner_text()


def test_tokens_tell_their_logprob_when_pointed_at(page):
    page.locator("#step-slider").fill(str(NUM_STEPS - 1))
    chip = page.locator(".token").nth(2)
    chip.scroll_into_view_if_needed()
    chip.hover()
    tip = page.locator("#token-tip")
    tip.wait_for(state="visible")
    assert "log-probability -" in tip.inner_text()
    colours = set(page.locator(".token").evaluate_all("chips => chips.map((chip) => chip.style.backgroundColor)"))
    assert len(colours) > 5


def test_a_hostile_response_is_shown_as_text_and_does_nothing(page):
    assert HOSTILE in page.locator(".response").nth(1).inner_text().replace("\n", "")
    assert page.locator("#groups img").count() == 0
    assert page.title() == "demo"


@pytest.mark.parametrize(("name", "width"), [("wide", 1280), ("narrow", 390)])
def test_picture_of_the_report(report_file, tmp_path, name, width):
    folder = Path(os.environ.get("REPORT_SCREENSHOT", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"report-{name}.png"
    command = [sys.executable, "-m", "recipes.report.screenshot", report_file.parent, picture, f"--width={width}"]
    subprocess.run(command, cwd=ROOT, check=True)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    # A blank page of this size compresses to about 10 kB.
    assert len(data) > 50_000
