"""A live server for tests: `max serve` in a process of its own on a free loopback port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

READY = re.compile(r"Server ready on (http://\S+)")
START_LIMIT = 120.0


class LiveServer:
    """Starts at once; `lines` is what it printed. `python` may be another environment's interpreter."""

    def __init__(self, *options: str, python: str = sys.executable, env: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.url = ""
        self._told = threading.Event()
        self.process = self._launch(("serve", "--port", "0", *options), python, {**os.environ, **(env or {})})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _launch(self, argv: Sequence[str], python: str, env: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, "-m", "maxserve", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=sys.prefix,  # not a checkout: its folders would be importable
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := READY.search(line):
                self.url = found[1]
                self._told.set()
        self.process.stdout.close()
        self._told.set()

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "\n".join(self.lines)

    def wait_ready(self) -> LiveServer:
        """Returns when the server says it is ready; AssertionError with its output when it is not."""
        assert self._told.wait(START_LIMIT), f"not ready in time:\n{self.output}"
        assert self.url, f"the server ended:\n{self.output}"
        return self

    def health(self) -> int:
        """The status of /health."""
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def wait_health(self, status: int, seconds: float = 60.0) -> None:
        """Returns when /health has that status."""
        end = time.monotonic() + seconds
        while self.health() != status:
            assert time.monotonic() < end, f"/health did not become {status}:\n{self.output}"
            time.sleep(0.02)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit status; a server that does not end is killed and reported."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise
        self._reader.join(10)
        return status
