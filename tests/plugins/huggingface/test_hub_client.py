"""The real client of huggingface_hub against a hub that this test serves on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.huggingface.hub import HuggingFaceHub, patiently

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"architectures": []}', "model.safetensors": b"w" * 5000, "README.md": b"no"}


class Handler(BaseHTTPRequestHandler):
    """The few answers that listing and downloading need; org/m is there, org/gated needs a token."""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/m/revision/"):
            siblings = [{"rfilename": name} for name in FILES]
            self._send(json.dumps({"id": "org/m", "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path.startswith("/api/models/org/m/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith("/org/m/resolve/"):
            data = FILES[path.rsplit("/", 1)[1]]
            self._send(data, body, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
        elif "/org/gated" in path:
            self._send(b"", body, status=403, **{"X-Error-Code": "GatedRepo"})
        else:
            self._send(b"", body, status=404, **{"X-Error-Code": "RepoNotFound"})

    def _send(self, data: bytes, body: bool, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of these tests is on this machine, also where HF_HUB_OFFLINE is set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HuggingFaceHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield HuggingFaceHub(endpoint=f"http://127.0.0.1:{server.server_port}", cache=str(tmp_path / "cache"))
    server.shutdown()
    thread.join()
    server.server_close()


def test_lists_and_fetches(hub: HuggingFaceHub) -> None:
    assert sorted(hub.files("org/m", "main")) == sorted(FILES)
    fractions: list[float] = []
    patterns = ["config.json", "*.safetensors"]
    folder = Path(hub.fetch("org/m", "main", patterns, force=False, cached=False, done=fractions.append))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: data for name, data in FILES.items() if name != "README.md"
    }
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert Path(hub.fetch("org/m", "main", ["config.json"], force=False, cached=True, done=fractions.append)) == folder


def test_failures_are_one_clear_line(hub: HuggingFaceHub) -> None:
    for repo, reason in (("org/gated", "is gated: accept its licence"), ("org/gone", "no model of this name")):
        with pytest.raises(ModelError, match=reason):
            patiently(lambda repo=repo: hub.files(repo, "main"), repo, "main", offline=False)

        def fetch(repo: str = repo) -> str:
            return hub.fetch(repo, "main", ["*"], force=False, cached=False, done=lambda fraction: None)

        with pytest.raises(ModelError, match=reason):
            patiently(fetch, repo, "main", offline=False)
