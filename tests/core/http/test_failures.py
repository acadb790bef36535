from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from maxserve.core.http.failures import LONGEST_MESSAGE, Failure, failure_of, plain_failure
from maxserve.core.interfaces.errors import EngineError, QueueFullError, RequestError, WorkerDied


class Inner(BaseModel):
    text: str | list[str]


class Outer(BaseModel):
    items: list[Inner]


def refused(body: object) -> ValidationError:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(body)
    return error.value


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("x", code="c"), 400, "c"),
        (RequestError("x", status=404, code="model_not_found"), 404, "model_not_found"),
        (QueueFullError("x"), 429, "queue_full"),
        (HTTPException(401, "x"), 401, None),
        (HTTPException(413, "x"), 413, None),
        (WorkerDied("pid 5"), 503, "service_unavailable"),
        (EngineError("secret"), 500, "internal_error"),
        (KeyError("secret"), 500, "internal_error"),
    ],
)
def test_failures(error: Exception, status: int, code: str | None) -> None:
    failure = failure_of(error)
    assert (failure.status, failure.code) == (status, code)
    body = json.loads(plain_failure(failure).body)["error"]
    assert body.keys() == {"message", "param", "code"}
    assert not {"secret", "pid 5"} & set(body["message"].split())


def test_retry_after() -> None:
    assert failure_of(QueueFullError("x", retry_after=9)).headers == {"Retry-After": "9"}
    assert "Retry-After" in failure_of(WorkerDied("x")).headers


def test_validation_names_the_field_as_clients_write_it() -> None:
    failure = failure_of(refused({"items": [{"text": "ok"}, {"text": 5}]}))
    assert failure.param == "items[1].text"
    assert failure.message == "items[1].text: Input should be a valid string; or Input should be a valid list"


def test_messages_are_capped_and_encodable() -> None:
    body = json.loads(plain_failure(Failure(status=400, message="x" * 10_000_000)).body)
    assert len(body["error"]["message"]) < LONGEST_MESSAGE + 20
    assert json.loads(plain_failure(Failure(status=400, message="lone \ud800")).body)["error"]["message"] == "lone ?"
    assert len(plain_failure(failure_of(refused({"items": [{"text": 5}] * 1000}))).body) < 1000
