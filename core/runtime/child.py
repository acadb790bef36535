"""A worker process, from its parent's side."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from maxserve.core.runtime.lifeline import write_start
from maxserve.core.runtime.messages import Start
from maxserve.core.runtime.openmp import WAITING
from maxserve.core.runtime.terminal import is_terminal, relay

# -P: a worker imports from where its parent does, and never by accident from the working directory.
COMMAND = (sys.executable, "-P", "-m", "maxserve.core.runtime.worker")


class Child:
    """One worker process. It must be spawned by a thread that outlives it: Linux ends it with that thread."""

    def __init__(self, start: Start) -> None:
        # On a terminal this process alone writes: it draws bars there, which the worker's lines would tear.
        said = subprocess.PIPE if is_terminal() else None
        environ = {**WAITING, **os.environ}
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stderr=said, env=environ)
        if self._process.stderr is not None:
            relay(self._process.stderr)
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._lifeline = self._process.stdin
        with suppress(BrokenPipeError):  # it ended at once; its watcher hears of that
            write_start(self._lifeline, start)

    async def exited(self) -> int:
        """Its exit status, negative for a signal, as soon as it has one."""
        loop = asyncio.get_running_loop()
        status: asyncio.Future[int] = loop.create_future()

        def tell(code: int) -> None:
            if not status.done():
                status.set_result(code)

        def wait() -> None:
            code = self._process.wait()
            with suppress(RuntimeError):  # the loop is closed: the answer is no longer wanted
                loop.call_soon_threadsafe(tell, code)

        threading.Thread(target=wait, name=f"await-worker-{self.pid}", daemon=True).start()
        return await status

    def cut(self) -> None:
        """Closes the lifeline: the worker ends at once, whatever it is at."""
        with suppress(BrokenPipeError):
            self._lifeline.close()

    def kill(self) -> None:
        """Ends it for certain and returns when it is gone; harmless when it is."""
        self.cut()
        self._process.kill()
        self._process.wait()


def describe_exit(pid: int, status: int) -> str:
    """Why a worker ended, in words for an operator."""
    if status >= 0:
        return f"the worker (pid {pid}) ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    text = f"the worker (pid {pid}) was ended by {name}"
    if -status == signal.SIGKILL:
        text += (
            "; if no user sent it, the system ran out of memory: "
            "lower --device-memory-utilization, --max-batch-size or --max-length"
        )
    return text
