"""The remote grader against a real HTTP server of this machine."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from rl_data import GradeOutcome, GraderConfig, GraderPool
from rl_data.cli import main


class Judge(BaseHTTPRequestHandler):
    """Does what the response says; counts its requests and how many it serves at the same time."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    num_requests: ClassVar[dict[str, int]] = {}
    num_at_once = 0
    most_at_once = 0
    last_request: Any = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        response = body["response"]
        with self.lock:
            Judge.last_request = body
            Judge.num_requests[response] = number = Judge.num_requests.get(response, 0) + 1
            Judge.num_at_once += response.startswith("slow")
            Judge.most_at_once = max(Judge.most_at_once, Judge.num_at_once)
        try:
            self._answer(response, number)
        finally:
            with self.lock:
                Judge.num_at_once -= response.startswith("slow")

    def _answer(self, response: str, number: int):
        if response == "hang":
            time.sleep(3.0)
        if response == "drip":
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            for _ in range(30):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
                time.sleep(0.1)
            return
        if response == "broken":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if response.startswith("slow"):
            time.sleep(0.05)
        status, content = 200, b'{"value": 0.5, "reason": "fair"}'
        if response == "busy twice" and number <= 2:
            status, content = 503, b"busy"
        if response in ("always busy", "always too busy"):
            status, content = 429, b"too many"
        if response == "refused":
            status, content = 400, b"I will not"
        if response == "number":
            content = b"1"
        if response == "nonsense":
            content = b'{"score": "good"}'
        if response == "endless":
            content = b"1" * (2 << 20)
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have given up by now
            self.wfile.write(content)

    def log_message(self, *_: object):
        pass


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/grade"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def graders(url: str) -> Generator[GraderPool]:
    with GraderPool(GraderConfig(rm_url=url, rm_timeout_s=1.0, rm_max_concurrency=4, rm_max_retries=3)) as graders:
        yield graders


def test_a_server_is_told_everything_and_gives_a_value_and_a_reason(graders: GraderPool):
    grade = graders.grade_now("fine", "4", {"topic": "sums"}, num_tokens=7)
    assert (grade.value, grade.reason) == (0.5, "fair")
    assert Judge.last_request == {"response": "fine", "label": "4", "metadata": {"topic": "sums"}, "num_tokens": 7}


def test_a_number_alone_is_a_grade(graders: GraderPool):
    assert graders.grade_now("number", None).value == 1.0


def test_a_busy_server_is_asked_again(graders: GraderPool):
    assert graders.grade_now("busy twice", None).value == 0.5
    assert Judge.num_requests["busy twice"] == 3


@pytest.mark.parametrize(
    ("response", "outcome", "reason", "num_requests"),
    [
        ("always too busy", GradeOutcome.CRASH, "answered 429 'too many'", 4),
        ("broken", GradeOutcome.CRASH, "RemoteProtocolError", 4),
        ("refused", GradeOutcome.CRASH, "answered 400 'I will not'", 1),
        ("nonsense", GradeOutcome.CRASH, "expected a number or an object with value and reason, got", 1),
        ("endless", GradeOutcome.CRASH, "answered more than 1048576 bytes", 1),
        ("hang", GradeOutcome.TIMEOUT, "did not grade within 1 s: no answer yet", 1),
        ("drip", GradeOutcome.TIMEOUT, "did not grade within 1 s: no answer yet", 1),
    ],
)
def test_what_goes_wrong_is_an_outcome_within_the_deadline(
    graders: GraderPool, url: str, response: str, outcome: GradeOutcome, reason: str, num_requests: int
):
    start = time.monotonic()
    grade = graders.grade_now(response, None)
    assert (grade.value, grade.outcome) == (None, outcome)
    assert grade.reason.startswith(url)
    assert reason in grade.reason
    assert time.monotonic() - start < 3.0  # 1 s and slack for a busy machine; the server would take longer
    assert Judge.num_requests[response] == num_requests


def test_no_more_requests_than_allowed_run_at_the_same_time_and_waiting_does_not_count(graders: GraderPool):
    # 100 of 50 ms through 4 places take 1.25 s, longer than one response may.
    items = [(f"slow {number}", None, None) for number in range(100)]
    grades = asyncio.run(graders.grade_many(items))
    assert [grade.value for grade in grades] == [0.5] * 100
    assert Judge.most_at_once == 4


def test_the_command_takes_the_limits_of_requests(
    url: str, write_jsonl: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    Judge.most_at_once = 0
    slow = write_jsonl([{"response": f"slow row {number}"} for number in range(12)])
    assert main(["grade", slow, "--rm-url", url, "--rm-max-concurrency", "2"]) == 0
    assert Judge.most_at_once == 2
    assert capsys.readouterr().err == "12 graded, mean 0.5000\n"
    before = Judge.num_requests.get("always busy", 0)
    busy = write_jsonl([{"response": "always busy"}])
    assert main(["grade", busy, "--rm-url", url, "--rm-max-retries", "1"]) == 0
    assert Judge.num_requests["always busy"] == before + 2
    assert capsys.readouterr().err == "1 crash, no grade\n"
    for flag, value, expected in (
        ("--rm-max-concurrency", "0", "at least 1"),
        ("--rm-max-retries", "-1", "at least 0"),
    ):
        assert main(["grade", busy, "--rm-url", url, flag, value]) == 2
        assert f"{flag} {value}: expected {expected}" in capsys.readouterr().err


def test_what_json_cannot_hold_is_a_crash(graders: GraderPool, url: str):
    grade = graders.grade_now("half a pair \ud800", None)
    assert grade.outcome is GradeOutcome.CRASH
    assert grade.reason.startswith(f"not sent to {url}: ")


def test_threads_and_event_loops_share_it(graders: GraderPool):
    values: list[float | None] = []
    threads = [
        threading.Thread(target=lambda: values.append(graders.grade_now("number", None).value)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [1.0] * 4


def test_closing_ends_what_is_being_asked_as_a_crash(url: str):
    graders = GraderPool(GraderConfig(rm_url=url, rm_timeout_s=60.0))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(graders.grade_now("hang", None)))
    thread.start()
    time.sleep(0.3)
    graders.close()
    thread.join(timeout=10)
    assert (found[0].outcome, found[0].reason) == (GradeOutcome.CRASH, "the pool is closed")
    assert graders.grade_now("late", None).outcome is GradeOutcome.CRASH


def test_a_server_that_is_not_there_is_a_crash():
    config = GraderConfig(rm_url="http://127.0.0.1:1/", rm_max_retries=1)
    with GraderPool(config) as graders:
        grade = graders.grade_now("any", None)
    assert grade.outcome is GradeOutcome.CRASH
    assert "ConnectError" in grade.reason
