"""Failures as OpenAI's error objects."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from maxserve.http import Failure, capped

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def failure_type(failure: Failure) -> str:
    return _TYPES.get(failure.status, "server_error" if failure.status >= 500 else "invalid_request_error")


def failure_body(failure: Failure) -> bytes:
    """The JSON, for an answer or for an event of a stream."""
    kind = failure_type(failure)
    error = {"message": capped(failure.message), "type": kind, "param": failure.param, "code": failure.code}
    return msgspec.json.encode({"error": error})


def failure_response(failure: Failure, request_id: str = "") -> Response:
    return Response(failure_body(failure), failure.status, dict(failure.headers), media_type="application/json")
