"""A server on this machine that answers as the Hugging Face hub does, for what this package asks of it."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000
"""Files from this size on are kept as large files are: under a SHA-256, at another address."""


class HubServer(ThreadingHTTPServer):
    """Repositories by kind and name, such as `datasets/owner/name`; each a mapping of paths to contents."""

    daemon_threads = True

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = {name: dict(files) for name, files in repos.items()}
        self.commit = COMMIT
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range of every request."""
        self.fails_after: int | None = None
        """Bytes after which a large file's connection breaks; its next requests are refused."""
        self.stalls: dict[str, int] = {}
        """Paths of which, after as many bytes, nothing more comes until the server ends."""
        self.is_over = threading.Event()
        self.gated: set[str] = set()
        self.corrupt: set[str] = set()
        """Paths of which another content is sent than was described."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        """Which of some paths there are: what `datasets` asks before it fetches them."""
        match = re.fullmatch(r"/api/(datasets)/([^/]+/[^/]+)/paths-info/[^/]+", unquote(urlsplit(self.path).path))
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert match is not None
        repo = self.server.repos[f"{match[1]}/{match[2]}"]
        paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
        self.send(200, json.dumps([_entry(path, repo[path]) for path in paths if path in repo]).encode())

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", path):
            self.describe(f"{match[1]}/{match[2]}", match["revision"])
        elif match := re.fullmatch(r"/api/(datasets)/([^/]+/[^/]+)/tree/[^/]+", path):
            repo = self.server.repos[f"{match[1]}/{match[2]}"]
            self.send(200, json.dumps([_entry(one, content) for one, content in repo.items()]).encode())
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(f"{(match[1] or 'models/')}{match[2]}", match[4])
        elif match := re.fullmatch(r"/cdn/(models|datasets)/([^/]+/[^/]+)/(.+)", path):
            self.send_content(f"{match[1]}/{match[2]}", match[3])
        else:
            self.refuse(404, "EntryNotFound")

    def describe(self, repo: str, revision: str | None) -> None:
        if repo not in self.server.repos:
            self.refuse(404, "RepoNotFound")
        elif repo in self.server.gated:
            self.refuse(403, "GatedRepo")
        elif revision not in (None, "main", self.server.commit):
            self.refuse(404, "RevisionNotFound")
        else:
            siblings = [_described(path, content) for path, content in self.server.repos[repo].items()]
            description = {"id": repo.partition("/")[2], "sha": self.server.commit, "siblings": siblings}
            self.send(200, json.dumps(description).encode())

    def resolve(self, repo: str, path: str) -> None:
        content = self.server.repos.get(repo, {}).get(path)
        if content is None:
            self.refuse(404, "EntryNotFound")
        elif len(content) >= LARGE_BYTES:
            self.send(302, b"", {"Location": f"/cdn/{repo}/{path}", "X-Repo-Commit": self.server.commit})
        else:
            self.send_content(repo, path)

    def send_content(self, repo: str, path: str) -> None:
        content = self.server.repos[repo][path]
        if path in self.server.corrupt:
            content = bytes(len(content))
        first = 0
        if (wanted := self.headers.get("Range")) is not None:
            first = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": self.server.commit}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if path in self.server.stalls:
            self.send(200, content[: self.server.stalls[path]], headers, length=len(content))
            self.server.is_over.wait()
            self.close_connection = True
            return
        limit = self.server.fails_after
        if limit is not None and len(content) >= LARGE_BYTES:
            if first:
                self.close_connection = True  # without an answer, as a hub that went away
                return
            self.send(200, content[:limit], headers, length=len(content))
            self.close_connection = True
        else:
            self.send(206 if first else 200, content[first:], headers)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _described(path: str, content: bytes) -> dict[str, object]:
    described: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
    if len(content) >= LARGE_BYTES:
        described["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return described


def _entry(path: str, content: bytes) -> dict[str, object]:
    """A line of a listing of files."""
    return {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE_BYTES else _blob(content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[HubServer]:
    """The server, in a thread, until the block ends."""
    with HubServer(repos) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()
