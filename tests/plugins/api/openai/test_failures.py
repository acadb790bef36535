from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException

from maxserve.core.http.failures import failure_of
from maxserve.core.interfaces.errors import EngineError, QueueFullError, RequestError, WorkerDied
from maxserve.plugins.api.openai.failures import failure_body, failure_response


@pytest.mark.parametrize(
    ("error", "type_name", "code"),
    [
        (RequestError("x", code="c"), "invalid_request_error", "c"),
        (RequestError("x", status=404, code="model_not_found"), "invalid_request_error", "model_not_found"),
        (QueueFullError("x"), "rate_limit_error", "queue_full"),
        (HTTPException(401, "x"), "authentication_error", None),
        (HTTPException(403, "x"), "permission_error", None),
        (HTTPException(413, "x"), "invalid_request_error", None),
        (WorkerDied("pid 5"), "server_error", "service_unavailable"),
        (EngineError("secret"), "server_error", "internal_error"),
        (KeyError("secret"), "server_error", "internal_error"),
    ],
)
def test_failures_are_error_objects(error: Exception, type_name: str, code: str | None) -> None:
    failure = failure_of(error)
    body = json.loads(failure_body(failure))["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert (body["type"], body["code"]) == (type_name, code)
    response = failure_response(failure)
    assert (response.status_code, response.body) == (failure.status, failure_body(failure))
    assert all(response.headers[name] == value for name, value in failure.headers.items())
