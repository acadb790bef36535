"""HTTP pieces for routes: bodies, streams of events, failures, threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.http.access import key_in
    from maxserve.core.http.body import body_schema, read_body
    from maxserve.core.http.disconnect import ClientGone, unless_gone
    from maxserve.core.http.failures import Failure, capped, failure_of, log_unforeseen
    from maxserve.core.http.sse import EventStream, event
    from maxserve.core.http.threads import Threads, in_thread_if

__all__ = [
    "ClientGone",
    "EventStream",
    "Failure",
    "Threads",
    "body_schema",
    "capped",
    "event",
    "failure_of",
    "in_thread_if",
    "key_in",
    "log_unforeseen",
    "read_body",
    "unless_gone",
]

__getattr__ = exports(
    __name__,
    {
        "ClientGone": "maxserve.core.http.disconnect",
        "EventStream": "maxserve.core.http.sse",
        "Failure": "maxserve.core.http.failures",
        "Threads": "maxserve.core.http.threads",
        "body_schema": "maxserve.core.http.body",
        "capped": "maxserve.core.http.failures",
        "event": "maxserve.core.http.sse",
        "failure_of": "maxserve.core.http.failures",
        "in_thread_if": "maxserve.core.http.threads",
        "key_in": "maxserve.core.http.access",
        "log_unforeseen": "maxserve.core.http.failures",
        "read_body": "maxserve.core.http.body",
        "unless_gone": "maxserve.core.http.disconnect",
    },
)
