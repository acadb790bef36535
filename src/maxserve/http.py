"""HTTP pieces for routes, middleware and servers: failures, and what describes routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.http.failures import RETRY_AFTER, Failure, capped, failure_of, log_unforeseen, unavailable
    from maxserve.core.http.middleware import key_in
    from maxserve.core.http.mounting import BodySchema, LaterSchema

__all__ = [
    "BodySchema",
    "Failure",
    "LaterSchema",
    "RETRY_AFTER",
    "capped",
    "failure_of",
    "key_in",
    "log_unforeseen",
    "unavailable",
]

__getattr__ = exports(
    __name__,
    {
        "BodySchema": "maxserve.core.http.mounting",
        "Failure": "maxserve.core.http.failures",
        "LaterSchema": "maxserve.core.http.mounting",
        "RETRY_AFTER": "maxserve.core.http.failures",
        "capped": "maxserve.core.http.failures",
        "failure_of": "maxserve.core.http.failures",
        "key_in": "maxserve.core.http.middleware",
        "log_unforeseen": "maxserve.core.http.failures",
        "unavailable": "maxserve.core.http.failures",
    },
)
