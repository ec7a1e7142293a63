"""A SGLang server that somebody else started: what its handle promises, and a GRPO run with it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from recipes.errors import UsageError
from recipes.grpo.checks import check_together
from recipes.grpo.config import parse, read_job
from recipes.grpo.external import folder_of_run
from rl_rollout import EngineError, EngineNotServingError, EnginePool, RequestError, RolloutConfigError, SamplingParams
from rl_rollout.sglang.http_engine import HTTPEngine
from rl_rollout.sglang.http_wire import base_url
from rl_rollout.testing import (
    check_closing,
    check_generation,
    check_memory_kept,
    check_weight_updates,
    make_requests,
)
from tests.recipes.short_runs import grpo, records, weights

PROMPT = np.arange(5, 15, dtype=np.int32)
KEY = "only-for-this-test"
CONTEXT_LENGTH = 448


@pytest.fixture(scope="module")
def server(policy, tmp_path_factory):
    """The address of a server on the policy of the short runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(policy / "model"), "--api-key", KEY]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command += ["--disable-cuda-graph", "--sleep-on-idle", "--skip-server-warmup", "--log-level", "warning"]
    command += ["--context-length", str(CONTEXT_LENGTH)]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    handle = handle_of(f"127.0.0.1:{port}", policy, log.parent)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                handle.wait_ready(0.5)
                break
            except EngineError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the server did not become ready:\n{log.read_text()}")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def handle_of(address, policy, folder, key=KEY):
    return HTTPEngine(address, name="engine 0", model_path=policy / "model", weights_folder=folder, api_key=key)


@pytest.mark.slow
def test_a_handle_of_a_server_keeps_the_promises_of_engines_and_sinks(server, policy, tmp_path):
    tensors = list(load_file(policy / "model" / "model.safetensors").items())
    handle = handle_of(server, policy, tmp_path)
    requests, bad = make_requests(PROMPT, range(4)), SamplingParams(max_new_tokens=8, top_p=7.0)
    with pytest.raises(EngineNotServingError, match=r"engine 0 at .* weights 'default', which are not this run's"):
        asyncio.run(handle.generate(requests, timeout_s=60))
    assert handle.weight_version() is None

    asyncio.run(check_weight_updates(handle, PROMPT, tensors))
    asyncio.run(check_generation(handle, PROMPT))
    asyncio.run(check_memory_kept(handle, PROMPT))
    assert handle.weight_version() == 8
    assert len(list(tmp_path.glob("engine-0-*/version-*"))) == 1
    assert handle_of(server, policy, tmp_path).weight_version() is None, "it took another's version for its own"
    with pytest.raises(RequestError, match=r"engine 0 at .*: refused while generating 1 responses: .*top_p"):
        asyncio.run(handle.generate([replace(requests[0], sampling=bad)], timeout_s=60))
    with pytest.raises(EngineError, match="status 401"):
        handle_of(server, policy, tmp_path, key="another").weight_version()
    assert handle.check_server() == CONTEXT_LENGTH
    asyncio.run(check_closing(handle, PROMPT))
    assert not list(tmp_path.iterdir())
    for call in (handle.weight_version, handle.wait_ready, lambda: handle.begin_update(9)):
        with pytest.raises(EngineError, match=r"engine 0 at .*: this handle of it was closed"):
            call()

    other = tmp_path / "model"
    other.mkdir()
    config = json.loads((policy / "model" / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["OtherForCausalLM"]}))
    with pytest.raises(RolloutConfigError, match=r"engine 0 at .*: it serves architectures .*OtherForCausalLM"):
        HTTPEngine(server, name="engine 0", model_path=other, weights_folder=tmp_path, api_key=KEY).check_server()


@pytest.mark.slow
def test_grpo_with_a_server_started_elsewhere_gives_what_it_gives_with_its_own_engine(
    server, start, easy_inputs, policy, straight, tmp_path, monkeypatch
):
    monkeypatch.setenv("SGLANG_API_KEY", KEY)
    inputs = easy_inputs._replace(model=policy / "model")
    external = ("--rollout-external-engine-addrs", server, "--update-weight-transport", "disk")
    run = start(grpo(inputs, tmp_path / "run", *external, "--update-weight-disk-dir", tmp_path / "shared"))
    run.wait_for("grpo 1")
    assert run.find("ray::_RankActor"), "nothing is found by its name"
    assert not run.find("sglang::scheduler")
    assert run.end() == 0, run.err
    assert run.left_after(5) == []
    rewards = [line.get("reward_mean") for line in records(straight.folder)]
    assert [line.get("reward_mean") for line in records(tmp_path / "run")] == rewards
    assert weights(tmp_path / "run") == weights(straight.folder)
    assert not list((tmp_path / "shared").iterdir())


def test_a_server_that_does_not_answer_is_named(inputs, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    words = grpo(
        inputs, tmp_path / "run", "--rollout-external-engine-addrs", address, "--update-weight-transport", "disk"
    )
    with pytest.raises(
        UsageError, match=f"--rollout-external-engine-addrs: engine 0 at {address}: not ready within 0 s"
    ):
        read_job(words[3:])
    handle = HTTPEngine(address, name="engine 0", model_path=inputs.model, weights_folder=tmp_path)
    with pytest.raises(EngineError, match=f"engine 0 at {address}: not ready within 0 s: .*failed while telling its"):
        handle.wait_ready(0)
    pool = EnginePool([handle])
    with pytest.raises(EngineError, match=f"engine 0 at {address}: failed while generating 1 responses"):
        asyncio.run(pool.generate(make_requests(PROMPT, [1]), timeout_s=10))


def test_what_a_killed_run_left_goes_at_its_next_start_and_nothing_of_others_does(tmp_path):
    shared = tmp_path / "shared"
    with folder_of_run(shared, tmp_path / "b" / "run") as others:
        others.mkdir(parents=True)
        with folder_of_run(shared, tmp_path / "a" / "run") as killed:
            (killed / "engine-7-of-then" / "version-3").mkdir(parents=True)
            with folder_of_run(shared, tmp_path / "a" / "run") as own:
                assert own == killed
                assert [*shared.iterdir()] == [others]
                own.mkdir()
            assert [*shared.iterdir()] == [others]


def test_no_proxy_of_the_environment_sees_a_key_or_a_prompt(inputs, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as other:
        proxy.settimeout(0.2)
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        other.close()
        handle = HTTPEngine(address, name="engine 0", model_path=inputs.model, weights_folder=tmp_path, api_key=KEY)
        with pytest.raises(EngineError, match="not ready"):
            handle.wait_ready(0)
        with pytest.raises(EngineError, match="failed while generating"):
            asyncio.run(handle.generate(make_requests(PROMPT, [1]), timeout_s=10))
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":30000",
        "ftp://host:30000",
        "http://host/30000",
        "host:x",
        "a b:30000",
        "[x]:30000",
        "host:0",
        "host:70000",
        "host:30000\n",
        "user@host:30000",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(RolloutConfigError, match="expected HOST:PORT or http://HOST:PORT"):
        base_url(address)
    assert base_url("https://host:30000/") == "https://host:30000"
    assert base_url("[::1]:30000") == "http://[::1]:30000"


def test_a_missing_client_library_is_named_with_what_installs_it(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RolloutConfigError, match=r"engine 0: .* needs httpx: pip install 'rl-rollout\[http\]'"):
        HTTPEngine("host:30000", name="engine 0", model_path=inputs.model, weights_folder=tmp_path)


def test_an_answer_that_is_none_of_sglang_names_the_server(inputs, tmp_path):
    handle = HTTPEngine("host:30000", name="engine 0", model_path=inputs.model, weights_folder=tmp_path)
    for text, message in (("no JSON", "expected JSON while loading"), ("[]", "expected a JSON object while loading")):
        with pytest.raises(EngineError, match=f"engine 0 at host:30000: {message}"):
            handle._object(handle._json(httpx.Response(400, text=text), "loading"), "loading")
    request = make_requests(PROMPT, [1])[0]
    for answer in ({}, {"meta_info": {}}, {"meta_info": {"weight_version": f"{handle._stream}:1"}}, []):
        with pytest.raises(EngineError, match="engine 0 at host:30000: expected an answer of SGLang's /generate"):
            handle._generation(request, answer)


def test_what_a_preset_says_of_engines_can_be_taken_back_and_what_the_user_says_is_not_ignored(inputs, tmp_path):
    words = ["--preset", "qwen3_4b_dapo_math_1xh200", "--hf-checkpoint", str(inputs.model), "--prompt-data", "x"]
    words += ["--run-dir", str(tmp_path / "run"), "--update-weight-transport", "disk"]
    words += ["--rollout-external-engine-addrs", "host:30000", "--config"]
    file, own = tmp_path / "own.yaml", tmp_path / "run" / "config.yaml"
    file.write_text("eval-interval: null\n")
    with pytest.raises(UsageError, match=r"--colocate has no effect .*; where a preset says it, `colocate: null`"):
        parse([*words, str(file)])
    file.write_text("colocate: null\n")
    check_together(parse([*words, str(file)]))
    own.parent.mkdir()
    for path in (file, own):
        path.write_text("colocate: null\nsglang-page-size: 1\n")
        with pytest.raises(UsageError, match="--sglang-page-size: with --rollout-external-engine-addrs it belongs"):
            check_together(parse([*words, str(path)]))
    check_together(parse([*words, str(own), "--resume"]))
