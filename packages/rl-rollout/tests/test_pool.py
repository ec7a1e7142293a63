import asyncio

import numpy as np
import pytest

from rl_data import FinishReason
from rl_rollout import EngineDeadlineError, EngineError, EnginePart, EnginePool, RequestError
from rl_rollout.testing import FakeEngine, make_requests
from rl_rollout.weights import checksum


def publish(engine, version):
    buffer = np.zeros(4, np.uint8)
    engine.begin_update(version)
    engine.load_bucket([("w", "float32", (1,))], buffer, checksum(buffer))
    engine.commit_update(version, 1)


def generate_groups(pool, prompt, num_groups, **kwargs):
    async def run():
        calls = [pool.generate(make_requests(prompt + 100 * g, range(4)), timeout_s=5) for g in range(num_groups)]
        return await asyncio.gather(*calls)

    return asyncio.run(run(), **kwargs)


def test_batches_go_to_the_engine_with_the_fewest_requests(prompt):
    engines = [FakeEngine(f"engine {i}", seconds_per_token=0.002) for i in range(3)]
    generate_groups(EnginePool(engines), prompt, 6)
    assert [engine.num_requests for engine in engines] == [8, 8, 8]


def test_a_dying_engines_batches_move_on_and_none_is_lost(prompt):
    dying = FakeEngine("engine 0", seconds_per_token=0.002, dies_after=6)
    pool = EnginePool([dying, FakeEngine("engine 1", seconds_per_token=0.002)])
    answers = generate_groups(pool, prompt, 8)
    undisturbed = generate_groups(EnginePool([FakeEngine("engine 2")]), prompt, 8)
    assert [[a.tokens.tolist() for a in group] for group in answers] == [
        [a.tokens.tolist() for a in group] for group in undisturbed
    ]
    assert list(pool.failed) == ["engine 0"]
    assert [engine.name for engine in pool.engines] == ["engine 1"]


@pytest.mark.parametrize("dies_after", range(1, 33))
def test_whenever_an_engine_dies_every_prompt_is_answered(prompt, dies_after):
    pool = EnginePool([FakeEngine("engine 0", dies_after=dies_after), FakeEngine("engine 1")])
    assert [len(group) for group in generate_groups(pool, prompt, 8)] == [4] * 8


def test_an_engine_that_is_late_and_does_not_say_its_version_is_taken_out(prompt):
    class Deaf(FakeEngine):
        """One whose machine no longer answers."""

        def weight_version(self):
            raise EngineDeadlineError(f"{self.name}: no answer within 20 s while telling its weight version")

    pool = EnginePool([Deaf("engine 0", seconds_per_token=60), FakeEngine("engine 1")])
    [answer] = asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=0.05))
    assert answer.tokens.size == 8
    assert "telling its weight version" in pool.failed["engine 0"]


def test_an_engine_that_is_late_but_alive_stays_and_the_deadline_is_the_request_s_failure(prompt):
    engine = FakeEngine("engine 0", seconds_per_token=0.01)
    pool = EnginePool([engine])
    with pytest.raises(EngineDeadlineError, match=r"engine 0: no answer within 0\.05 s while generating 1 responses"):
        asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=0.05))
    assert not pool.failed
    assert len(asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))) == 1


def test_without_an_engine_left_the_error_names_each_and_its_reason(prompt):
    pool = EnginePool([FakeEngine("engine 0", dies_after=1), FakeEngine("engine 1", dies_after=1)])
    with pytest.raises(EngineError, match=r"(?s)no engine is left.*engine 0: .*killed.*engine 1: .*killed"):
        asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))


def test_a_stale_engine_gets_nothing_until_it_is_fresh(prompt):
    fresh, stale = FakeEngine("fresh"), FakeEngine("stale")
    pool = EnginePool([stale, fresh])
    publish(fresh, 1)
    pool.set_policy_version(1)
    answers = generate_groups(pool, prompt, 4)
    assert {answer.policy_version for group in answers for answer in group} == {1}
    assert stale.num_requests == 0
    assert pool.stale == {"stale": "serves version 0, expected 1"}
    publish(stale, 2)
    publish(fresh, 2)
    pool.set_policy_version(2)
    generate_groups(pool, prompt, 4)
    assert stale.num_requests > 0


def test_only_stale_engines_are_an_error():
    with pytest.raises(EngineError, match="serves version 0, expected 5"):
        EnginePool([FakeEngine("engine 0")]).set_policy_version(5)


def test_an_answer_of_old_weights_is_drawn_again(prompt):
    class Forgetful(FakeEngine):
        """Says that it serves version 1, and answers with version 0, as after a restart from the file."""

        def weight_version(self):
            return 1

    fresh = FakeEngine("fresh")
    publish(fresh, 1)
    pool = EnginePool([Forgetful("forgetful"), fresh])
    pool.set_policy_version(1)
    answers = generate_groups(pool, prompt, 2)
    assert {answer.policy_version for group in answers for answer in group} == {1}


def test_an_engine_in_an_update_comes_back(prompt):
    engine, other = FakeEngine("engine 0"), FakeEngine("engine 1")
    pool = EnginePool([engine, other])
    engine.begin_update(1)
    asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))
    assert "holds no whole set" in pool.stale["engine 0"]
    assert not pool.failed
    publish(engine, 1)
    publish(other, 1)
    pool.set_policy_version(1)
    assert not pool.stale


def test_a_call_in_flight_over_a_publish_is_drawn_again_and_the_engine_stays_fresh(prompt):
    engine = FakeEngine("engine 0", seconds_per_token=0.01)
    pool = EnginePool([engine])

    async def run():
        call = asyncio.ensure_future(pool.generate(make_requests(prompt, [1]), timeout_s=5))
        await asyncio.sleep(0)  # the engine has it
        publish(engine, 1)
        pool.set_policy_version(1)
        return await call

    pool.set_policy_version(0)
    [answer] = asyncio.run(run())
    assert answer.policy_version == 1
    assert not pool.stale


def test_a_refusal_that_arrives_after_the_publish_it_was_due_to_leaves_the_engine_fresh(prompt):
    class Far(FakeEngine):
        """One whose answers take a while to arrive, as an actor's do."""

        async def generate(self, requests, *, timeout_s):
            try:
                return await super().generate(requests, timeout_s=timeout_s)
            finally:
                await asyncio.sleep(0.03)

    engine = Far("engine 0")
    pool = EnginePool([engine])

    async def run():
        engine.begin_update(1)
        call = asyncio.ensure_future(pool.generate(make_requests(prompt, [1]), timeout_s=5))
        await asyncio.sleep(0)  # the engine has it
        publish(engine, 1)
        pool.set_policy_version(1)
        return await call

    [answer] = asyncio.run(run())
    assert answer.policy_version == 1
    assert not pool.stale


def test_a_refused_request_does_not_cost_the_engine(prompt):
    def refuse(request):
        raise RequestError("engine 0: too long")

    pool = EnginePool([FakeEngine("engine 0", respond=refuse)])
    with pytest.raises(RequestError, match="too long"):
        asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))
    assert not pool.failed


def test_an_engine_that_fails_to_abort_is_taken_out_and_the_others_abort(prompt):
    dead, live = FakeEngine("engine 0"), FakeEngine("engine 1", seconds_per_token=0.01)

    async def run():
        pool = EnginePool([dead, live])
        pending = asyncio.ensure_future(live.generate(make_requests(prompt, [1], max_new_tokens=400), timeout_s=60))
        await asyncio.sleep(0.02)
        dead.die("killed on purpose")
        await pool.abort_all()
        return pool, await pending

    pool, [answer] = asyncio.run(run())
    assert answer.finish_reason is FinishReason.ABORT
    assert "killed on purpose" in pool.failed["engine 0"]
    assert pool.engines == (live,)


def test_an_engine_can_be_replaced(prompt):
    pool = EnginePool([FakeEngine("engine 0", dies_after=1), FakeEngine("engine 1")])
    asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))
    pool.add(FakeEngine("engine 0"))
    assert sorted(engine.name for engine in pool.engines) == ["engine 0", "engine 1"]
    assert not pool.failed
    with pytest.raises(ValueError, match="engine 1 is there already"):
        pool.add(FakeEngine("engine 1"))


def test_an_engine_that_is_restarted_in_mid_run_gets_nothing_until_it_has_the_runs_weights(prompt):
    engine, other = FakeEngine("engine 0", dies_after=1), FakeEngine("engine 1")
    pool = EnginePool([engine, other])
    publish(engine, 3)
    publish(other, 3)
    pool.set_policy_version(3)
    generate_groups(pool, prompt, 2)
    assert "engine 0" in pool.failed
    pool.add(restarted := FakeEngine("engine 0"))
    assert restarted.weight_version() == 0, "the file's weights"
    assert pool.stale == {"engine 0": "serves version 0, expected 3"}
    answers = generate_groups(pool, prompt, 4)
    restarted.begin_update(4)  # and an update that does not come to its end changes nothing
    pool.set_policy_version(3)
    answers += generate_groups(pool, prompt, 4)
    assert {answer.policy_version for group in answers for answer in group} == {3}
    assert restarted.num_requests == 0
    publish(restarted, 3)
    pool.set_policy_version(3)
    answers = generate_groups(pool, prompt, 4)
    assert {answer.policy_version for group in answers for answer in group} == {3}
    assert restarted.num_requests > 0


def test_engines_need_names_of_their_own():
    with pytest.raises(ValueError, match="names that differ"):
        EnginePool([FakeEngine("engine 0"), FakeEngine("engine 0")])
    with pytest.raises(ValueError, match=r"got \[\]"):
        EnginePool([])


def test_an_engine_that_does_not_give_its_memory_up_is_taken_out(prompt):
    engines = [FakeEngine("engine 0"), FakeEngine("engine 1")]
    pool = EnginePool(engines)
    engines[0].die("killed")
    asyncio.run(pool.release_memory())
    assert list(pool.failed) == ["engine 0"]
    for part in EnginePart:
        asyncio.run(pool.resume_memory(part))
    assert engines[1].calls == ["release", "resume weights", "resume kv_cache"]
    engines[1].die("killed too")
    with pytest.raises(EngineError, match=r"(?s)no engine is left.*engine 0: .*killed.*engine 1: .*killed too"):
        asyncio.run(pool.resume_memory(EnginePart.WEIGHTS))


def test_after_a_release_the_pool_serves_once_weights_were_published_and_all_memory_is_back(prompt):
    engine = FakeEngine()
    pool = EnginePool([engine])
    asyncio.run(pool.release_memory())
    asyncio.run(pool.resume_memory(EnginePart.WEIGHTS))
    publish(engine, 2)
    pool.set_policy_version(2)
    asyncio.run(pool.resume_memory(EnginePart.KV_CACHE))
    [answer] = asyncio.run(pool.generate(make_requests(prompt, [1]), timeout_s=5))
    assert answer.policy_version == 2
