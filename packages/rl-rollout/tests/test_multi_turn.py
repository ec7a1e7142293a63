import asyncio

import numpy as np
import pytest

from rl_data import FinishReason, Prompt
from rl_rollout import GenerateContext, MultiTurn, RequestError, SamplingParams, per_sample
from rl_rollout.testing import FakeEngine

PROMPT = Prompt(row=0, epoch=0, tokens=np.array([1, 2], np.int32), text="What is 6 x 7?", label="42")
CALL, ANSWER = [10, 11, 12], [20, 21]


class Calculator:
    async def reply(self, turn_text):
        return "=42" if turn_text.startswith("10") else None


class Letters:
    def encode(self, text, *, add_special_tokens=True):
        assert not add_special_tokens
        return [100 + ord(letter) for letter in text]


def respond(request):
    """Calls the tool until its reply is the last that was read."""
    return ANSWER if request.tokens[-1] == 100 + ord("2") else CALL


def draw(max_new_tokens=50, max_turns=4, num_samples=1, respond=respond):
    context = GenerateContext(
        engines=FakeEngine("engine 0", respond=respond),
        sampling=SamplingParams(max_new_tokens=max_new_tokens),
        timeout_s=5,
    )
    function = per_sample(MultiTurn(Calculator(), Letters(), max_turns=max_turns))
    return asyncio.run(function(PROMPT, list(range(num_samples)), context))


def test_only_what_the_policy_wrote_is_trained():
    [sample] = draw()
    reply = [100 + ord(letter) for letter in "=42"]
    assert sample.tokens.tolist() == [1, 2, *CALL, *reply, *ANSWER]
    assert sample.loss_mask.tolist() == [False] * 2 + [True] * 3 + [False] * 3 + [True] * 2
    assert sample.spans == ((2, 5, 0), (8, 10, 0))
    assert (sample.rollout_logprobs[~sample.loss_mask] == 0).all()
    assert (sample.rollout_logprobs[sample.loss_mask] < 0).all()
    assert sample.finish_reason is FinishReason.STOP
    assert sample.response_text == "10 11 12=4220 21"
    assert sample.metadata["num_turns"] == 2
    assert sample.label == "42"


def test_samples_of_a_group_are_numbered():
    assert [sample.index for sample in draw(num_samples=3)] == [0, 1, 2]


def test_a_sample_that_fails_leaves_no_other_of_its_group_running():
    ended = []

    async def draw(prompt, index, seed, context):
        try:
            if index == 0:
                raise RequestError("refused")
            await asyncio.sleep(60)
        finally:
            ended.append(index)

    async def run():
        with pytest.raises(RequestError, match="refused"):
            await per_sample(draw)(PROMPT, [1, 2, 3], None)
        return sorted(ended)

    assert asyncio.run(run()) == [0, 1, 2]


def test_the_last_turn_asks_no_tool():
    [sample] = draw(max_turns=1)
    assert sample.tokens.tolist() == [1, 2, *CALL]
    assert sample.metadata["num_turns"] == 1


def test_a_reply_that_leaves_no_room_ends_the_sample_as_truncated():
    [sample] = draw(max_new_tokens=6)
    assert sample.tokens.tolist() == [1, 2, *CALL]
    assert sample.finish_reason is FinishReason.LENGTH


def test_the_token_limit_bounds_all_turns_together():
    [sample] = draw(max_new_tokens=7)
    assert sample.response_length == 7
    assert sample.finish_reason is FinishReason.LENGTH


def test_turns_have_seeds_of_their_own():
    seeds = []

    def record(request):
        seeds.append(request.seed)
        return respond(request)

    draw(respond=record, num_samples=2)
    assert len(set(seeds)) == 4
    assert seeds[:2] == [0, 1]
