"""The real engine on a CPU. One engine serves most tests; those that kill one start their own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rl_data import FinishReason
from rl_rollout import (
    Engine,
    EngineError,
    EnginePool,
    GenerateRequest,
    RequestError,
    RolloutConfigError,
    SamplingParams,
    SGLangEngine,
)
from rl_rollout.sglang.messages import DeviceBuffer, DeviceStorage
from rl_rollout.testing import (
    FakeEngine,
    check_closing,
    check_generation,
    check_memory,
    check_weight_updates,
    make_requests,
)
from rl_rollout.weights import checksum

pytestmark = pytest.mark.slow

GPU_BUFFER = DeviceBuffer(DeviceStorage("me", 0, "GPU-1", b"handle", 8, 0, b"counter", 0, b"event", False), 0, 8, [0])


def tensors_of(folder, scale=1.0):
    """The folder's weights times `scale`, under their names."""
    from safetensors.numpy import load_file

    return [(name, array * np.float32(scale)) for name, array in load_file(folder / "model.safetensors").items()]


def logprobs_by_transformers(folder, tokens, prompt_length, temperature, scale=1.0):
    """[R] log-probabilities of the response in float32, by another implementation of the model."""
    import torch
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
        logits = model(torch.tensor(tokens, dtype=torch.int64)[None]).logits[0]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    response = torch.tensor(tokens[prompt_length:], dtype=torch.int64)
    return logprobs[prompt_length - 1 : -1].gather(1, response[:, None])[:, 0].numpy()


def mean_difference(folder, prompt, answers, temperature, scale=1.0):
    differences = [
        np.abs(
            answer.logprobs
            - logprobs_by_transformers(folder, np.concatenate([prompt, answer.tokens]), prompt.size, temperature, scale)
        )
        for answer in answers
    ]
    return float(np.concatenate(differences).mean())


def publish(engine, tensors, version):
    engine.begin_update(version)
    for name, array in tensors:
        buffer = np.frombuffer(array.tobytes(), np.uint8)
        engine.load_bucket([(name, "float32", array.shape)], buffer, checksum(buffer))
    engine.commit_update(version, len(tensors))


def test_it_keeps_the_promises_of_engines(sglang_engine, prompt):
    assert isinstance(sglang_engine, Engine)
    seconds = sglang_engine.wait_ready()
    assert set(seconds) == {"import", "launch"}
    assert sglang_engine.weight_version() == 0
    asyncio.run(check_generation(sglang_engine, prompt))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_transformers(sglang_engine, tiny_model, prompt, temperature):
    requests = make_requests(prompt, range(4), max_new_tokens=48, temperature=temperature)
    answers = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    # Both run in float32; orders of summation differ, which shows in the sixth digit of logits of about 10.
    assert mean_difference(tiny_model, prompt, answers, temperature) < 1e-5


def test_a_seed_gives_its_response_whatever_else_is_in_the_batch(sglang_engine, prompt):
    def draw(seeds):
        answers = asyncio.run(sglang_engine.generate(make_requests(prompt, seeds, max_new_tokens=32), timeout_s=120))
        return {seed: answer.tokens.tolist() for seed, answer in zip(seeds, answers, strict=True)}

    together = draw(range(20, 36))
    assert len({tuple(tokens) for tokens in together.values()}) == 16
    for seed in (20, 27, 35):
        assert draw([seed])[seed] == together[seed]


def test_a_temperature_of_zero_takes_the_likeliest_tokens(sglang_engine, prompt):
    requests = make_requests(prompt, range(3), max_new_tokens=16, temperature=0.0)
    answers = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    assert len({answer.tokens.tobytes() for answer in answers}) == 1


def test_top_k_and_top_p_of_nearly_nothing_take_the_likeliest_tokens(sglang_engine, prompt):
    def draw(**limits):
        sampling = SamplingParams(max_new_tokens=12, **limits)
        requests = [GenerateRequest(request_id=str(s), tokens=prompt, sampling=sampling, seed=s) for s in range(4)]
        answers = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
        return {tuple(answer.tokens.tolist()) for answer in answers}

    [greedy] = draw(temperature=0.0)
    assert draw(top_p=1e-6) == {greedy}
    assert draw(top_k=1) == {greedy}
    assert len(draw(top_k=5)) > 1


def test_a_response_ends_at_the_end_token_or_a_stop_token(sglang_engine, prompt):
    requests = make_requests(prompt, range(64), max_new_tokens=60)
    answers = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    ended = [answer for answer in answers if answer.finish_reason is FinishReason.STOP]
    assert ended, "no response of 64 with 60 tokens drew an end token of 320"
    for answer in ended:
        assert answer.tokens[-1] == 258
        assert len(answer.tokens) == len(answer.logprobs)
        assert not answer.text.endswith("<|im_end|>")
    first = answers[0].tokens
    sampling = SamplingParams(max_new_tokens=60, stop_token_ids=(int(first[5]),))
    request = GenerateRequest(request_id="stop", tokens=prompt, sampling=sampling, seed=0)
    [answer] = asyncio.run(sglang_engine.generate([request], timeout_s=120))
    where = first.tolist().index(first[5])
    assert answer.tokens.tolist() == first[: where + 1].tolist()
    assert answer.finish_reason is FinishReason.STOP


def test_the_text_of_a_continuation_is_that_of_the_whole_response(sglang_engine, prompt):
    [whole] = asyncio.run(
        sglang_engine.generate(make_requests(prompt, [1], max_new_tokens=24, temperature=0.0), timeout_s=120)
    )
    requests = [
        GenerateRequest(
            request_id=str(cut),
            tokens=np.concatenate([prompt, whole.tokens[:cut]]),
            sampling=SamplingParams(max_new_tokens=24 - cut, temperature=0.0),
            seed=1,
            response_start=prompt.size,
        )
        for cut in range(len(whole.tokens))
    ]
    answers = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    for cut, answer in enumerate(answers):
        assert answer.tokens.tolist() == whole.tokens[cut:].tolist()
        assert answer.text == whole.text


def test_requests_that_it_cannot_serve_are_refused_by_name(sglang_engine, prompt):
    def ask(tokens=prompt, **sampling):
        params = SamplingParams(**{"max_new_tokens": 8, **sampling})
        request = GenerateRequest(request_id="0-7/3", tokens=tokens, sampling=params, seed=1)
        asyncio.run(sglang_engine.generate([request], timeout_s=60))

    with pytest.raises(RequestError, match="engine 0: request 0-7/3 has 600 prompt tokens and asks for 8 more"):
        ask(tokens=np.ones(600, np.int32))
    with pytest.raises(RequestError, match="needs_tokenizer=True"):
        ask(stop=("x",))
    with pytest.raises(RequestError, match=r"engine 0: .*top_p"):
        ask(top_p=7.0)
    ask()


def test_it_serves_only_whole_weights_and_then_the_new_ones(sglang_engine, tiny_model, prompt):
    requests = make_requests(prompt, range(4), max_new_tokens=32)
    before = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    asyncio.run(check_weight_updates(sglang_engine, prompt, tensors_of(tiny_model)))
    asyncio.run(check_memory(sglang_engine, prompt, tensors_of(tiny_model)))
    same = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    assert [answer.tokens.tolist() for answer in same] == [answer.tokens.tolist() for answer in before]
    publish(sglang_engine, tensors_of(tiny_model, scale=0.7), 9)
    changed = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    assert {answer.policy_version for answer in changed} == {9}
    # A cache of the old weights' keys and values would show here.
    assert mean_difference(tiny_model, prompt, changed, 1.0, scale=0.7) < 1e-5
    publish(sglang_engine, tensors_of(tiny_model), 10)


def test_a_tensor_that_the_model_does_not_have_is_refused(sglang_engine, tiny_model):
    buffer = np.zeros(8, np.uint8)
    sglang_engine.begin_update(11)
    with pytest.raises(EngineError, match=r"engine 0: bucket 0 of version 11.*no tensor model\.nomr\.weight"):
        sglang_engine.load_bucket([("model.nomr.weight", "float32", (2,))], buffer, checksum(buffer))
    publish(sglang_engine, tensors_of(tiny_model), 11)


def listened_on(engine):
    return {
        connection.laddr.ip
        for pid in engine.process_ids()
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_it_listens_on_loopback_alone(sglang_engine):
    assert listened_on(sglang_engine) <= {"127.0.0.1"}


def test_an_engine_of_two_ranks_does_what_one_of_one_rank_does(sglang_engine, tiny_model, prompt):
    publish(sglang_engine, tensors_of(tiny_model), 1)
    requests = make_requests(prompt, range(8), max_new_tokens=32)
    expected = asyncio.run(sglang_engine.generate(requests, timeout_s=120))
    with SGLangEngine(tiny_model, name="engine 6", server_args={"tp_size": 2}) as engine:
        assert engine.num_ranks() == 2
        assert len(engine.process_ids()) == 3  # host, schedulers
        answers = asyncio.run(engine.generate(requests, timeout_s=120))
        assert [answer.tokens.tolist() for answer in answers] == [answer.tokens.tolist() for answer in expected]
        # Partial sums of the ranks are added in another order.
        assert mean_difference(tiny_model, prompt, answers, 1.0) < 1e-5

        asyncio.run(check_weight_updates(engine, prompt, tensors_of(tiny_model)))
        asyncio.run(check_memory(engine, prompt, tensors_of(tiny_model)))
        tensors = tensors_of(tiny_model, scale=0.7)
        publish(engine, tensors, 10)
        changed = asyncio.run(engine.generate(requests, timeout_s=120))
        assert mean_difference(tiny_model, prompt, changed, 1.0, scale=0.7) < 1e-5
        specs = [(name, "float32", array.shape) for name, array in tensors]
        held = [checksum(np.frombuffer(array.tobytes(), np.uint8)) for _, array in tensors]
        assert engine.tensor_checksums(specs) == held
        assert engine.check_buffer(GPU_BUFFER, "0" * 16) == "the bucket is on GPU GPU-1, the engine on a CPU"
        assert listened_on(engine) <= {"127.0.0.1"}

        os.kill(engine.process_ids()[2], signal.SIGKILL)
        with pytest.raises(EngineError, match="engine 6: its process ended"):
            asyncio.run(engine.generate(make_requests(prompt, range(8), max_new_tokens=400), timeout_s=20))


def test_its_scheduler_killed_in_mid_generation_costs_an_error_and_no_prompt(tiny_model, prompt):
    engine = SGLangEngine(tiny_model, name="engine 1", needs_tokenizer=True)
    try:
        engine.wait_ready()
        process_ids = engine.process_ids()
        assert len(process_ids) == 3  # host, scheduler, detokenizer
        _check_stop_strings(engine, prompt)
        pool = EnginePool([engine, FakeEngine("engine 2")])

        async def kill_in_mid_generation():
            call = asyncio.ensure_future(
                pool.generate(make_requests(prompt, range(32), max_new_tokens=400), timeout_s=120)
            )
            await asyncio.sleep(0.3)
            os.kill(process_ids[1], signal.SIGKILL)
            started = time.monotonic()
            return await call, time.monotonic() - started

        answers, seconds = asyncio.run(kill_in_mid_generation())
        assert len(answers) == 32
        assert "engine 1: its process ended" in pool.failed["engine 1"]
        assert "exit code -9" in pool.failed["engine 1"]
        assert seconds < 5
        with pytest.raises(EngineError, match="engine 1: its process ended"):
            engine.begin_update(1)
        with pytest.raises(EngineError, match="engine 1: its process ended"):
            engine.weight_version()
    finally:
        asyncio.run(check_closing(engine, prompt))
    assert not any(psutil.pid_exists(pid) for pid in process_ids)


def _check_stop_strings(engine, prompt):
    [free] = asyncio.run(engine.generate(make_requests(prompt, [3], max_new_tokens=40), timeout_s=120))
    letter = next(letter for letter in free.text[3:] if letter.isascii() and letter.isalpha())
    sampling = SamplingParams(max_new_tokens=40, stop=(letter,))
    request = GenerateRequest(request_id="stop", tokens=prompt, sampling=sampling, seed=3)
    [answer] = asyncio.run(engine.generate([request], timeout_s=120))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text == free.text[: free.text.index(letter)]
    assert answer.tokens.tolist() == free.tokens[: len(answer.tokens)].tolist()


def test_an_engine_that_cannot_start_says_why_and_leaves_nothing(tiny_model, prompt):
    engine = SGLangEngine(tiny_model, name="engine 3", server_args={"attention_backend": "triton"})
    folder = engine._host._folder
    try:
        with pytest.raises(EngineError, match=r"(?s)engine 3: its process ended.*can only be 'torch_native' on a CPU"):
            engine.wait_ready()
        with pytest.raises(EngineError, match="engine 3"):
            asyncio.run(engine.generate(make_requests(prompt, [1]), timeout_s=10))
    finally:
        engine.close()
    assert not folder.exists()


def test_bad_input_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(RolloutConfigError, match=r"engine 4: expected a model folder, .* has no config\.json"):
        SGLangEngine(tmp_path, name="engine 4")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RolloutConfigError, match="model_path is set by the engine itself"):
        SGLangEngine(tmp_path, server_args={"model_path": "elsewhere"})


def test_closing_while_it_starts_leaves_nothing(tiny_model):
    engine = SGLangEngine(tiny_model, name="engine 5")
    process = psutil.Process(engine._host._process.pid)
    time.sleep(0.5)
    engine.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_the_engine_ends_with_its_owner(tiny_model, sign):
    program = (
        "from rl_rollout import SGLangEngine; "
        f"engine = SGLangEngine({str(tiny_model)!r}); host = engine._host; "
        "print(host._process.pid, host._folder, flush=True); "
        "engine.wait_ready()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    host_id, folder = owner.stdout.readline().split()
    host = psutil.Process(int(host_id))
    time.sleep(1)
    owner.send_signal(sign)
    owner.wait(10)
    psutil.wait_procs([host], timeout=10)
    assert not host.is_running()
    assert not Path(folder).exists()
