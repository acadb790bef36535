"""Name resolution with a deadline: the system's resolver has none, and may take minutes for a name."""

from __future__ import annotations

import queue
import socket
import threading
from typing import Any

LONGEST = 5.0  # seconds for a name, whatever time the whole fetch has
MOST_LOOKUPS = 32  # threads that may wait for the resolver; it cannot be asked to stop

Location = tuple[int, Any]  # an address family and what its sockets connect to

_Answers = queue.SimpleQueue[list[Location] | Exception]
_lookups = threading.BoundedSemaphore(MOST_LOOKUPS)


def addresses_of(host: str, port: int, seconds: float) -> list[Location]:
    """Where the host is, within `seconds`; TimeoutError when that takes longer, OSError when the name is not known."""
    seconds = min(seconds, LONGEST)
    lookups, answers = _lookups, _Answers()
    if not lookups.acquire(timeout=seconds):
        raise TimeoutError

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, location) for family, _, _, _, location in found])
        except Exception as error:
            answers.put(error)
        finally:
            lookups.release()

    threading.Thread(target=look_up, name="maxserve-resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
