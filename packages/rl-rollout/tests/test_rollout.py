import asyncio
import gc
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rl_data import FinishReason, Prompt, SampleGroup, VersionSpan
from rl_data.buffer import SampleBuffer
from rl_data.grading import Grade, GradeOutcome
from rl_rollout import (
    EngineError,
    EnginePool,
    GenerateContext,
    MultiTurn,
    RequestError,
    Rollout,
    RolloutConfig,
    RolloutConfigError,
    RolloutStarvedError,
    SamplingParams,
    per_sample,
    single_turn,
)
from rl_rollout.generate import continue_samples, sample_seed, unanswered
from rl_rollout.testing import FakeEngine


class Prompts:
    """Prompts 0, 1, 2 ... whose label is their number."""

    def __init__(self):
        self._rows = itertools.count()
        self.batches = []

    def next_batch(self, num_items):
        self.batches.append(num_items)
        return [
            Prompt(row=row, epoch=0, tokens=np.array([1, 2, row + 3], np.int32), text=f"prompt {row}", label=str(row))
            for row in itertools.islice(self._rows, num_items)
        ]


class Parity:
    """Rewards 1 where a response's first token is even, and 0 where it is odd; labels in `broken` fail."""

    def __init__(self, *, broken: Sequence[str] = (), equal: Sequence[str] = ()):
        self._broken, self._equal = broken, equal

    async def grade(self, response, label, metadata=None, *, num_tokens=None):
        if label in self._broken:
            return Grade(value=None, outcome=GradeOutcome.TIMEOUT, reason="took 10 s")
        if label in self._equal:
            return Grade(value=0.5)
        return Grade(value=float(int(response.split()[0]) % 2 == 0))


def make(grader=None, engines=None, buffer=None, **settings):
    settings = {"rollout_batch_size": 4, "n_samples_per_prompt": 4, "rollout_max_response_len": 6, **settings}
    pool = EnginePool(engines or [FakeEngine("engine 0")])
    return Rollout(RolloutConfig(**settings), pool, grader or Parity(), buffer=buffer)


def tokens_of(result):
    return [[sample.tokens.tolist() for sample in group.samples] for group in result.groups]


def test_a_rollout_gives_scored_groups_in_the_order_of_the_prompts():
    result = asyncio.run(make().collect(Prompts()))
    assert [group.group_id for group in result.groups] == ["0-0", "0-1", "0-2", "0-3"]
    for row, group in enumerate(result.groups):
        assert [sample.index for sample in group.samples] == [0, 1, 2, 3]
        for sample in group.samples:
            assert sample.tokens[:3].tolist() == [1, 2, row + 3]
            assert sample.loss_mask.tolist() == [False] * 3 + [True] * 6
            assert (sample.rollout_logprobs[:3] == 0).all()
            assert (sample.rollout_logprobs[3:] < 0).all()
            assert sample.spans == ((3, 9, 0),)
            assert sample.reward == float(sample.tokens[3] % 2 == 0)
            assert sample.label == str(row)
    assert not result.dropped


def test_metrics_are_means_over_the_samples():
    result = asyncio.run(make(Parity(equal=["0", "1", "2", "3"])).collect(Prompts()))
    assert result.metrics["reward_mean"] == 0.5
    assert result.metrics["response_length_mean"] == 6
    assert result.metrics["truncated_share"] == 1.0
    assert result.metrics["num_failed_samples"] == 0
    assert 0 <= result.metrics["generate_s"] <= result.metrics["collect_s"]


def test_the_same_seed_gives_the_same_samples_and_another_seed_others():
    first, again = (tokens_of(asyncio.run(make().collect(Prompts()))) for _ in range(2))
    assert first == again
    assert tokens_of(asyncio.run(make(rollout_seed=43).collect(Prompts()))) != first
    group = first[0]
    assert len({tuple(tokens) for tokens in group}) == len(group)


def test_seeds_depend_on_run_group_and_index_alone():
    seeds = {sample_seed(run, group, index) for run in (0, 1) for group in ("0-0", "0-1") for index in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(42, "0-17", 3) == 3592115427071059801  # changes what a resumed run draws


def test_groups_with_equal_rewards_are_replaced_and_counted():
    grader = Parity(equal=["1", "2"])
    source = Prompts()
    result = asyncio.run(make(grader, dynamic_sampling_filter="reward_spread").collect(source))
    assert len(result.groups) == 4
    assert {"1", "2"}.isdisjoint(sample.label for group in result.groups for sample in group.samples)
    assert result.drop_counts["equal rewards"] >= 2
    assert result.metrics["num_dropped_groups"] == len(result.dropped)
    assert all(len(set(group.rewards.tolist())) > 1 for group in result.groups)


def test_without_a_filter_groups_with_equal_rewards_stay():
    result = asyncio.run(make(Parity(equal=["1", "2"])).collect(Prompts()))
    assert [group.group_id for group in result.groups] == ["0-0", "0-1", "0-2", "0-3"]


def test_a_filter_that_drops_everything_ends_the_rollout_with_the_counts():
    rollout = make(Parity(equal=list(map(str, range(100)))), dynamic_sampling_filter="reward_spread", max_refills=3)
    source = Prompts()
    # Groups that end together are replaced together, so up to 3 of the 16 prompts allowed may be left.
    with pytest.raises(RolloutStarvedError, match=r"0 of 4 groups after 1[3-6] prompts; dropped: 1[3-6] x equal rew"):
        asyncio.run(rollout.collect(source))
    assert 13 <= sum(source.batches) <= 16


def test_a_grader_that_fails_everywhere_ends_the_rollout_with_its_reason():
    rollout = make(Parity(broken=list(map(str, range(100)))), max_refills=1)
    with pytest.raises(
        RolloutStarvedError, match="all_samples_failed; the last failed sample: grader: timeout: took 10 s"
    ):
        asyncio.run(rollout.collect(Prompts()))


def test_over_sampling_takes_more_prompts_and_gives_a_batch():
    source = Prompts()
    result = asyncio.run(make(over_sampling_batch_size=7).collect(source))
    assert source.batches == [7]
    assert len(result.groups) == 4
    assert result.drop_counts.get("surplus", 0) == 3


@pytest.mark.parametrize(("num_at_once", "batches"), [(4, [4, 1, 1]), (5, [5, 1]), (6, [6])])
def test_only_as_many_prompts_are_drawn_as_are_missing(num_at_once, batches):
    """Prompts 0 and 4 are dropped; each next one answers a little later."""
    slow = FakeEngine(
        "engine 0", respond=lambda request: [2, 4] * (1 + int(request.tokens[2])), seconds_per_token=0.005
    )
    grader = Parity(broken=["0", "4"])
    rollout = make(grader, engines=[slow], over_sampling_batch_size=num_at_once, rollout_max_response_len=60)
    source = Prompts()
    result = asyncio.run(rollout.collect(source))
    assert len(result.groups) == 4
    assert source.batches == batches
    assert result.drop_counts["all_samples_failed"] == 2


def test_failed_grades_take_samples_out_and_are_counted():
    class Every2nd(Parity):
        async def grade(self, response, label, metadata=None, *, num_tokens=None):
            if label == "1" and int(response.split()[0]) % 2:
                return Grade(value=None, outcome=GradeOutcome.CRASH, reason="died")
            return Grade(value=1.0)

    result = asyncio.run(make(Every2nd()).collect(Prompts()))
    group = result.groups[1]
    assert all(sample.reward == 1.0 and sample.tokens[3] % 2 == 0 for sample in group.samples)
    num_failed = 4 - len(group.samples)
    assert 0 < num_failed < 4
    assert result.metrics["num_failed_samples"] == num_failed == len(result.failed)
    assert result.metrics["num_grader_crashes"] == num_failed
    assert result.metrics["num_grader_timeouts"] == 0
    assert all("error" in sample.metadata for sample in result.failed)
    assert result.metrics["reward_mean"] == 1.0


def test_a_group_in_which_every_grade_failed_is_dropped_with_the_reasons_kept():
    result = asyncio.run(make(Parity(broken=["2"])).collect(Prompts()))
    assert [group.group_id for group in result.groups] == ["0-0", "0-1", "0-3", "0-4"]
    assert result.drop_counts == {"all_samples_failed": 1}
    [failed] = result.dropped
    for sample in failed.group.samples:
        assert sample.finish_reason is FinishReason.ERROR
        assert sample.metadata["error"] == "grader: timeout: took 10 s"
        assert sample.reward is None


def test_a_refused_prompt_is_dropped_and_replaced():
    def respond(request):
        if request.tokens[2] == 3:
            raise RequestError("engine 0: prompt too long")
        return [2, 4]

    result = asyncio.run(make(engines=[FakeEngine("engine 0", respond=respond)]).collect(Prompts()))
    assert len(result.groups) == 4
    assert result.drop_counts["request_refused"] == 1


def test_a_group_that_is_not_drawn_in_time_is_dropped_and_replaced_and_the_engine_stays(caplog):
    engine = FakeEngine(
        "engine 0", respond=lambda request: [2] * (8 if request.tokens[2] == 3 else 1), seconds_per_token=0.05
    )
    result = asyncio.run(make(engines=[engine], generate_timeout_s=0.2).collect(Prompts()))
    assert len(result.groups) == 4
    assert result.drop_counts["generate_timeout"] == 1
    assert "no answer within 0.2 s" in caplog.text
    assert "generate_timeout_s" in caplog.text


def test_an_engine_killed_in_mid_rollout_loses_no_prompt_and_changes_no_sample():
    def engines(dies_after):
        return [FakeEngine(f"engine {i}", seconds_per_token=0.002, dies_after=d) for i, d in enumerate(dies_after)]

    undisturbed = asyncio.run(make(engines=engines([None, None]), rollout_batch_size=12).collect(Prompts()))
    disturbed = asyncio.run(make(engines=engines([9, None]), rollout_batch_size=12).collect(Prompts()))
    assert tokens_of(disturbed) == tokens_of(undisturbed)
    assert len(disturbed.groups) == 12


def test_an_engine_that_dies_when_the_batch_is_full_does_not_cost_the_batch():
    class DiesOfAbort(FakeEngine):
        async def abort_all(self):
            self.die("killed on purpose")
            await super().abort_all()

    def respond(request):  # odd rows are slow
        return list(range(40)) if request.tokens[2] % 2 == 0 else [2]

    settings = {"respond": respond, "seconds_per_token": 0.005}
    engines = [DiesOfAbort("engine 0", **settings), FakeEngine("engine 1", **settings)]
    rollout = make(engines=engines, rollout_batch_size=2, over_sampling_batch_size=4, rollout_max_response_len=60)
    result = asyncio.run(rollout.collect(Prompts()))
    assert [group.group_id for group in result.groups] == ["0-0", "0-2"]
    assert result.drop_counts == {"surplus": 2}


def test_a_sample_that_is_at_its_tool_when_the_batch_is_full_is_cut_off_in_its_next_turn():
    class Tool:
        async def reply(self, turn_text):
            await pool.has_aborted.wait()
            return "again"

    class Letters:
        def encode(self, text, *, add_special_tokens=True):
            return [7]

    def respond(request):  # the only turn of row 0; of row 1 the first is short, and the second takes 20 s
        return [2] if request.tokens[-1] == 3 else [5] * (4000 if request.tokens[-1] == 7 else 1)

    async def draw(prompt, index, seed, context):
        turns = MultiTurn(Tool(), Letters(), max_turns=1 if prompt.row == 0 else 2)
        return await turns(prompt, index, seed, context)

    class Pool(EnginePool):
        has_aborted = asyncio.Event()

        async def abort_all(self):
            await super().abort_all()
            self.has_aborted.set()

    pool = Pool([FakeEngine("engine 0", respond=respond, seconds_per_token=0.005)])
    config = RolloutConfig(
        rollout_batch_size=1, over_sampling_batch_size=2, n_samples_per_prompt=1, rollout_max_response_len=5000
    )
    result = asyncio.run(Rollout(config, pool, Parity(), generate=per_sample(draw)).collect(Prompts()))
    assert [group.group_id for group in result.groups] == ["0-0"]
    assert result.drop_counts == {"surplus": 1}
    assert result.metrics["collect_s"] < 10


def test_an_error_of_what_is_cut_off_does_not_wait_for_the_slowest_and_is_the_only_one():
    unseen = []

    async def draw(prompt, seeds, context):
        if prompt.row in (1, 2):
            await asyncio.sleep(0.1)
            raise RuntimeError(f"the tool of row {prompt.row} broke")
        await asyncio.sleep(0 if prompt.row == 0 else 30)
        return await single_turn(prompt, seeds, context)

    async def collect():
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: unseen.append(what))
        config = RolloutConfig(rollout_batch_size=1, over_sampling_batch_size=4, n_samples_per_prompt=1)
        rollout = Rollout(config, EnginePool([FakeEngine("engine 0")]), Parity(), generate=draw)
        started = time.monotonic()
        with pytest.raises(RuntimeError, match=r"the tool of row \d broke"):
            await rollout.collect(Prompts())
        gc.collect()
        return time.monotonic() - started

    assert asyncio.run(collect()) < 10
    assert unseen == []


def test_with_no_engine_left_the_rollout_fails(caplog):
    with pytest.raises(EngineError, match="no engine is left"):
        asyncio.run(make(engines=[FakeEngine("engine 0", dies_after=3)]).collect(Prompts()))
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_an_error_of_the_grader_itself_ends_the_rollout():
    class Broken:
        async def grade(self, response, label, metadata=None, *, num_tokens=None):
            raise ValueError("rm-type math: expected a label")

    with pytest.raises(ValueError, match="expected a label"):
        asyncio.run(make(Broken()).collect(Prompts()))


def test_surplus_goes_to_the_buffer_and_comes_back_first():
    buffer = SampleBuffer()
    rollout = make(buffer=buffer, over_sampling_batch_size=6)
    source = Prompts()
    first = asyncio.run(rollout.collect(source))
    assert not first.dropped
    assert len(buffer) == 2
    second = asyncio.run(rollout.collect(source))
    assert source.batches == [6, 4]
    seen = [group.group_id for result in (first, second) for group in result.groups]
    assert len(set(seen)) == len(seen) == 8
    assert {"0-0", "0-1", "0-2", "0-3", "0-4", "0-5"} <= set(seen)


def test_a_response_that_was_cut_off_is_continued_by_the_next_policy():
    """Even rows answer at once, odd rows are slow: when the batch is full they are cut off."""
    full = {row: list(range(10 + row, 70 + row)) for row in range(16)}

    def respond(request):
        row = int(request.tokens[2]) - 3
        return full[row][request.tokens.size - 3 :] if row % 2 else [2 * row]

    slow = FakeEngine("engine 0", respond=respond, seconds_per_token=0.005)
    buffer = SampleBuffer()
    rollout = make(
        engines=[slow], buffer=buffer, rollout_batch_size=2, over_sampling_batch_size=4, rollout_max_response_len=60
    )
    source = Prompts()
    first = asyncio.run(rollout.collect(source))
    assert [group.group_id for group in first.groups] == ["0-0", "0-2"]
    assert len(buffer) == 2

    class NoMore:
        def next_batch(self, num_items):
            return []

    slow._version = 1  # as after a publish
    rollout = make(
        engines=[slow], buffer=buffer, rollout_batch_size=2, n_samples_per_prompt=4, rollout_max_response_len=60
    )
    second = asyncio.run(rollout.collect(NoMore()))
    for row, group in zip((1, 3), second.groups, strict=True):
        for sample in group.samples:
            assert sample.tokens[3:].tolist() == full[row]
            assert [span.policy_version for span in sample.spans] in ([0, 1], [1])
            assert sample.spans[0].start == 3
            assert sample.spans[-1].stop == 63
            assert sample.finish_reason is FinishReason.LENGTH
            assert sample.reward is not None


PI = list("\u03c0=3".encode())
"""Four bytes, the first two of one letter."""


def cut_off_after(num_tokens):
    """A sample of FakeEngines that respond with the bytes of PI, of which it has some."""
    text = bytes(PI[:num_tokens]).decode(errors="replace")
    tokens = np.array([1, 2, *PI[:num_tokens]], np.int32)
    prompt = Prompt(row=0, epoch=0, tokens=tokens[:2], text="", label="")
    sample = unanswered(prompt, 0, "")
    return replace(
        sample,
        tokens=tokens,
        loss_mask=np.arange(tokens.size) >= 2,
        rollout_logprobs=np.zeros(tokens.size, np.float32),
        spans=(VersionSpan(2, tokens.size, 0),),
        finish_reason=FinishReason.ABORT,
        response_text=text,
    )


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_the_text_of_a_continued_response_is_decoded_as_a_whole(num_tokens):
    engine = FakeEngine(
        respond=lambda request: PI[request.tokens.size - 2 :],
        decode=lambda tokens: bytes(tokens).decode(errors="replace"),
    )
    context = GenerateContext(engines=engine, sampling=SamplingParams(max_new_tokens=10), timeout_s=5)
    [sample] = asyncio.run(continue_samples([cut_off_after(num_tokens)], [1], context))
    assert sample.tokens.tolist() == [1, 2, *PI]
    assert sample.response_text == "\u03c0=3"
    assert sample.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("max_new_tokens", [2, 3])
def test_a_cut_off_response_that_may_have_no_more_tokens_is_truncated_as_it_is(max_new_tokens):
    engine = FakeEngine()
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    context = GenerateContext(engines=engine, sampling=sampling, timeout_s=5)
    [sample] = asyncio.run(continue_samples([cut_off_after(3)], [1], context))
    assert sample.response_length == 3
    assert sample.finish_reason is FinishReason.LENGTH
    assert engine.num_requests == 0


def test_a_cut_off_group_that_an_engine_refuses_is_dropped_and_replaced():
    def respond(request):
        if request.response_start is not None:
            raise RequestError("engine 0: too long")
        return [2, 4]

    buffer = SampleBuffer()
    buffer.put([SampleGroup(group_id="0-0", samples=(cut_off_after(1),))])
    rollout = make(engines=[FakeEngine("engine 0", respond=respond)], buffer=buffer)
    result = asyncio.run(rollout.collect(Prompts()))
    assert len(result.groups) == 4
    assert result.drop_counts == {"request_refused": 1}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rollout_batch_size": 0}, "rollout_batch_size 0: expected at least 1"),
        (
            {"over_sampling_batch_size": 3},
            "over_sampling_batch_size 3: expected at least rollout_batch_size 4",
        ),
        ({"rollout_temperature": 0.0}, "rollout_temperature 0.0: expected a number above 0"),
        ({"rollout_top_p": 1.5}, r"rollout_top_p 1.5: expected a number in \(0, 1\]"),
        ({"rollout_top_k": 0}, "rollout_top_k 0: expected -1 or at least 1"),
        ({"dynamic_sampling_filter": "spread"}, "dynamic_sampling_filter spread: expected none or reward_spread"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, problem):
    with pytest.raises(RolloutConfigError, match=problem):
        RolloutConfig(**{"rollout_batch_size": 4, **settings})
