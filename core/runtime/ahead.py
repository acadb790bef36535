"""A worker process that begins before it is known what it will serve.

`max serve` reads plugins and settings for half a second before it can say what a worker is to do; a worker imports
modules for two. On a second core both happen at once. Nothing that a worker does before its start message depends on
settings; a process that turns out to be another than is needed is ended, and one is started as if there had been none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from maxserve.core.runtime.openmp import WAITING

# -P: a worker imports from where its parent does, and never by accident from the working directory.
COMMAND = (sys.executable, "-P", "-m", "maxserve.core.runtime.worker")


class Ahead:
    """A process of COMMAND without its start message, for the executor to take."""

    def __init__(self) -> None:
        self._environ = worker_environ(WAITING)
        self._piped = sys.stderr is not None and sys.stderr.isatty()  # there a display shows what workers write
        self._process: subprocess.Popen[bytes] | None = _begin(self._environ, self._piped)

    def take(self, environ: Mapping[str, str], piped: bool) -> subprocess.Popen[bytes] | None:
        """The process, once, if it runs in `environ` and its standard error is a pipe or not, as is asked."""
        process = self._process
        if process is None or (environ, piped) != (self._environ, self._piped) or process.poll() is not None:
            return None
        self._process = None
        return process

    def end(self) -> None:
        """Ends the process unless it was taken."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def ahead_of(words: Sequence[str]) -> Ahead | None:
    """A worker for the command line `words` of `max`, if it starts a server."""
    if words[:1] != ["serve"] or {"-h", "--help"} & set(words):
        return None
    return Ahead()


def worker_environ(own: Mapping[str, str]) -> dict[str, str]:
    """The variables of a worker that is started now: those of this process, and its `own`."""
    return {**own, **os.environ}


def _begin(environ: Mapping[str, str], piped: bool) -> subprocess.Popen[bytes] | None:
    """None where none can be started: the executor says why when it tries to."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a child inherits: a key is the parent's to answer
    try:
        errors = subprocess.PIPE if piped else None
        return subprocess.Popen((*COMMAND, str(os.getpid())), stdin=subprocess.PIPE, stderr=errors, env=environ)
    except OSError:
        return None
    finally:
        signal.signal(signal.SIGINT, before)
