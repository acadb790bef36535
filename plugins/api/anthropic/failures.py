"""What does a failure look like to Anthropic's clients?"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from maxserve.http import Failure, capped
from maxserve.plugins.api.common.renaming import renamed

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
NO_THREADS = "thread_unsupported_request"  # on which the official clients go on without threads
_NAMES = {  # what fields of chats are called here
    "stop": "stop_sequences",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
}


def failure_body(failure: Failure, request_id: str) -> bytes:
    """The JSON, for an answer or for an event of a stream. Such errors have no field for what is at fault."""
    kind = _TYPES.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
    error: dict[str, Any] = {"type": kind, "message": capped(_message(failure))}
    if failure.code == NO_THREADS:
        error["details"] = {"error_code": NO_THREADS, "unsupported": ["thread"]}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def failure_response(failure: Failure, request_id: str) -> Response:
    headers = {**failure.headers, "request-id": request_id}
    return Response(failure_body(failure, request_id), failure.status, headers, media_type="application/json")


def _message(failure: Failure) -> str:
    """The message, which names the field at fault."""
    failure = renamed(failure, _NAMES)
    named = not failure.param or failure.param in failure.message
    return failure.message if named else f"{failure.param}: {failure.message}"
