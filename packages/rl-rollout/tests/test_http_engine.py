"""Handles of servers elsewhere, without SGLang; with it, see tests/recipes/test_external_engines.py."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rl_rollout import EngineError, RolloutConfigError
from rl_rollout.sglang.http_engine import HTTPEngine


@pytest.fixture
def serve():
    """Starts a server that answers with the statuses, one after the other; gives its address."""
    servers = []

    def start(statuses):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(statuses.pop(0))
                self.end_headers()
                self.wfile.write(b"it says so")

            def log_message(self, *words):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("last", "message"), [(401, "status 401 while telling its model"), (404, "status 404"), (200, "expected JSON")]
)
def test_a_server_that_starts_is_waited_for_and_one_that_refuses_is_not(serve, model, last, message):
    statuses = [503, last]
    handle = HTTPEngine(serve(statuses), name="engine 0", model_path=model, weights_folder=model)
    with pytest.raises(EngineError, match=message):
        handle.wait_ready(60)
    assert not statuses


@pytest.mark.parametrize("folder", ["there-is-none", "."])
def test_a_folder_without_a_model_is_refused(tmp_path, folder):
    with pytest.raises(RolloutConfigError, match=r"engine 0: expected a model folder, .* has no config\.json"):
        HTTPEngine("host:30000", name="engine 0", model_path=tmp_path / folder, weights_folder=tmp_path)
