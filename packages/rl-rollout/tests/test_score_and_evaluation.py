import asyncio
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from rl_data import FinishReason, Prompt
from rl_data.grading import Grade, GradeOutcome, GraderConfig, GraderPool
from rl_data.testing import make_sample
from rl_rollout import EnginePool, RolloutConfigError, SamplingParams, evaluate, grade_many
from rl_rollout.evaluation import pass_at_k
from rl_rollout.testing import FakeEngine

THREE_TOKENS = SamplingParams(max_new_tokens=3)


class FirstToken:
    """Right where the response's first token is below 128; label "broken" fails."""

    def __init__(self):
        self.num_graded = 0

    async def grade(self, response, label, metadata=None, *, num_tokens=None):
        self.num_graded += 1
        if label == "broken":
            return Grade(value=None, outcome=GradeOutcome.CRASH, reason="died")
        return Grade(value=float(int(response.split()[0]) < 128))


def prompts(labels):
    return [
        Prompt(row=row, epoch=0, tokens=np.array([row + 1], np.int32), text="", label=label)
        for row, label in enumerate(labels)
    ]


def test_samples_that_need_no_grade_are_not_graded():
    grader = FirstToken()
    samples = [
        make_sample(index=0, reward=0.25),
        make_sample(index=1, finish_reason=FinishReason.ABORT),
        make_sample(index=2, finish_reason=FinishReason.ERROR),
    ]
    assert asyncio.run(grade_many(samples, grader)) == samples
    assert grader.num_graded == 0


def test_the_real_grader_pool_scores_samples():
    with GraderPool("gsm8k") as grader:
        samples = [make_sample(index=index, label="5") for index in range(2)]
        samples = [replace(samples[0], response_text="2+3 #### 5"), replace(samples[1], response_text="#### 6")]
        scored = asyncio.run(grade_many(samples, grader))
    assert [sample.reward for sample in scored] == [1.0, 0.0]
    assert scored[1].metadata["grade_outcome"] == "graded"
    assert scored[1].metadata["grade_reason"] == "answer ' 6' is not '5'"


def test_graders_that_look_at_the_length_get_the_response_s_tokens():
    config = GraderConfig(rm_type="overlong", overlong_buffer_len=4, rollout_max_response_len=10)
    with GraderPool(config) as grader:
        scored = asyncio.run(grade_many([make_sample(prompt_length=9, response_length=8)], grader))
    assert scored[0].reward == -0.5


def test_evaluation_counts_right_samples():
    pool = EnginePool([FakeEngine("engine 0")])
    report = asyncio.run(evaluate(prompts("abcdefgh"), pool, FirstToken(), THREE_TOKENS, num_samples=4))
    right = np.array([sample.tokens[1] < 128 for sample in report.samples]).reshape(8, 4)
    assert report.accuracy == right.mean()
    assert report.pass_at_k[1] == pytest.approx(right.mean())
    assert report.pass_at_k[4] == right.any(axis=1).mean()
    assert list(report.pass_at_k) == [1, 2, 4]
    assert report.truncated_share == 1.0
    assert report.response_length_mean == 3
    assert report.num_failed_samples == 0


def test_a_failed_sample_counts_as_not_right_and_is_counted():
    pool = EnginePool([FakeEngine("engine 0", respond=lambda request: [1])])
    report = asyncio.run(evaluate(prompts(["a", "broken"]), pool, FirstToken(), THREE_TOKENS))
    assert report.accuracy == 0.5
    assert report.reward_mean == 1.0
    assert report.num_failed_samples == 1
    assert (report.num_grader_crashes, report.num_grader_timeouts) == (1, 0)


def test_an_evaluation_in_which_all_fails_says_so(caplog):
    pool = EnginePool([FakeEngine("engine 0")])
    report = asyncio.run(evaluate(prompts(["broken"]), pool, FirstToken(), THREE_TOKENS))
    assert report.accuracy == 0.0
    assert math.isnan(report.reward_mean)
    assert "all 1 samples failed: grader: crash: died" in caplog.text


def test_prompts_that_are_not_answered_in_time_are_counted_as_failed_and_the_engine_stays(caplog):
    engine = FakeEngine("engine 0", respond=lambda request: [1] * int(request.tokens[0]), seconds_per_token=0.05)
    pool = EnginePool([engine])
    sampling = SamplingParams(max_new_tokens=100)
    slow = replace(prompts("a")[0], row=7, tokens=np.array([100], np.int32))
    report = asyncio.run(evaluate([*prompts("ab"), slow], pool, FirstToken(), sampling, num_samples=2, timeout_s=1.0))
    assert report.accuracy == pytest.approx(2 / 3)
    assert (report.num_failed_samples, report.num_generate_timeouts) == (2, 2)
    assert "no answer within 1 s while generating 2 responses" in str(report.samples[-1].metadata["error"])
    assert report.samples[-1].response_length == 0
    assert "1 of 3 prompts were not answered within 1 s (generate_timeout_s)" in caplog.text
    assert not pool.failed


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    right = [True, False, False, True, False]
    for k in range(1, 6):
        subsets = list(combinations(right, k))
        assert pass_at_k(5, 2, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_an_evaluation_of_nothing_is_refused():
    pool = EnginePool([FakeEngine("engine 0")])
    with pytest.raises(RolloutConfigError, match="got 0 prompts and 1 samples"):
        asyncio.run(evaluate([], pool, FirstToken(), THREE_TOKENS))
