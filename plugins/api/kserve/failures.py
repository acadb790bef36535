"""What does a failure look like to clients of the Open Inference Protocol? One string."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from maxserve.http import Failure, capped
from maxserve.plugins.api.common.renaming import renamed

_NAMES = {"prompt": "text_input"}  # what fields of completions are called here


def failure_body(failure: Failure) -> bytes:
    failure = renamed(failure, _NAMES)
    named = not failure.param or failure.param in failure.message
    message = failure.message if named else f"{failure.param}: {failure.message}"
    return msgspec.json.encode({"error": capped(message)})


def failure_response(failure: Failure, request_id: str = "") -> Response:
    return Response(failure_body(failure), failure.status, dict(failure.headers), media_type="application/json")
