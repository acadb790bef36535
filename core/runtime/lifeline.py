"""The end of a worker whose parent is gone.

Its standard input carries the Start message and then stays open: when it ends, the parent has ended, however that came
about. On Linux the kernel is asked to say so too, in case another process holds a copy of the pipe; it cannot be
asked where another program, such as ssh, is between the two.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
from typing import IO

import msgspec

from maxserve.core.runtime.messages import Start

HEADER = struct.Struct("!Q")
_PR_SET_PDEATHSIG = 1
ORPHANED = 3  # exit status of a worker whose parent went away


def encode_start(start: Start) -> bytes:
    """The message behind its length, as a worker reads it."""
    body = msgspec.msgpack.encode(start)
    return HEADER.pack(len(body)) + body


def read_start(pipe: IO[bytes]) -> Start:
    """The message; EOFError when the parent ended before it was written."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError("standard input ended before the start message; a worker is started by `max serve`")
    body = pipe.read(HEADER.unpack(header)[0])
    return msgspec.msgpack.decode(body, type=Start)


def hold(fd: int, parent: int) -> threading.Thread:
    """Ends this process, at once and without ado, when the parent's end of `fd` closes.

    Returns the thread that waits for it; it sleeps in a read and costs nothing.
    """
    if os.getppid() == parent:  # else a launcher is between, and the pipe alone tells
        end_with_parent(parent)
    thread = threading.Thread(target=_await_end, args=(fd,), name="lifeline", daemon=True)
    thread.start()
    return thread


def end_with_parent(parent: int) -> None:
    """Has the kernel, which is Linux', end this process when `parent` ends; ends it at once when that is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel was asked
        os._exit(ORPHANED)


def _await_end(fd: int) -> None:
    while os.read(fd, 4096):
        pass
    os._exit(ORPHANED)
