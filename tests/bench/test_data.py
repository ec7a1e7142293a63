import json
import subprocess
import sys

import pytest


def run(*words: str) -> tuple[dict[str, float], dict[str, object]]:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    return {record["name"]: record["value"] for record in printed["results"]}, printed["details"]


@pytest.mark.bench
def test_packing_is_measured_and_even():
    values, details = run("bench.packing", "--num-samples", "512")
    assert 1.0 <= values["packing_imbalance"] <= 1.02
    by = details["imbalance_of_operations"]
    assert by["balanced_by_operations"] <= by["balanced_by_tokens"] + 1e-3
    assert values["packing_seconds"] > 0


@pytest.mark.bench
@pytest.mark.slow
def test_graders_are_measured_and_hostile_answers_break_nothing(tmp_path):
    data = tmp_path / "answers.jsonl"
    answers = ["\\frac{1}{2}", "x+1", "(0,3)", "\\sqrt{2}", "\\frac{\\pi}{6}", "17"]
    data.write_text("".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    values, details = run("bench.grading", "--data", str(data), "--num-hostile", "12", "--hostile-timeout-s", "1")
    assert values["grading_right_share"] == values["grading_wrong_share"] == 1.0
    assert details["hostile"]["num_hostile_right"] == details["hostile"]["num_good_wrong"] == 0
    assert sum(details["hostile"]["outcomes"].values()) == 12
    assert values["grading_hostile_good_share"] == 1.0
    assert values["grading_hostile_longest_s"] < 2.0  # the limit, and a second
    assert values["grading_dapo_per_s"] > 2000
    assert values["grading_math_per_s"] > 200
