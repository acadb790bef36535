"""A hub on 127.0.0.1 that has one repository, and another one that needs a token."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = "org/gated"


class _Handler(BaseHTTPRequestHandler):
    """The few answers that listing and downloading need."""

    repository: str
    files: Callable[[], Mapping[str, bytes]]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path, files, repository = self.path.partition("?")[0], type(self).files(), self.repository
        if path.startswith(f"/api/models/{repository}/revision/"):
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path.startswith(f"/api/models/{repository}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith(f"/{repository}/resolve/"):
            data = files[path.rsplit("/", 1)[1]]
            self._send(data, body, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
        elif GATED in path:
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


@contextmanager
def local_hub(repository: str, files: Callable[[], Mapping[str, bytes]]) -> Iterator[str]:
    """Serves `files`, asked for at each request, as a repository; gives the address."""
    handler = type("Handler", (_Handler,), {"repository": repository, "files": staticmethod(files)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
