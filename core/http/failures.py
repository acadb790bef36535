"""Failures: the status, the message and the code that stand for an error, and the form that an answer gives them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from maxserve.core.interfaces.errors import PluginError, QueueFullError, RequestError, WorkerDied

log = logging.getLogger("maxserve.server")

LONGEST_MESSAGE = 1000  # characters; a validation error can quote the body many times over
RETRY_AFTER = 2  # seconds, while the worker is loading or starting again

_UNION_TAG = re.compile(r"^(str|int|float|bool|list|dict|none|(list|dict|tuple|union|nullable|function-.*)\[.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failure as the client hears of it, in the form that the dialect of its path has (FailureDialects)."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """What the status is called."""
        return HTTPStatus(self.status).phrase


EncodesFailure: TypeAlias = Callable[[Failure, str], Response]  # of a failure and the request's id


class FailureDialects:
    """What answers failures below some paths, by plugin; all others are plain objects.

    PluginError when two plugins want the same path.
    """

    def __init__(self, given: Iterable[tuple[str, Mapping[str, EncodesFailure]]] = ()) -> None:
        self._encoders: dict[str, EncodesFailure] = {}
        owners: dict[str, str] = {}
        for plugin, encoders in given:
            for path, encode in encoders.items():
                root = path.rstrip("/")
                if root in owners:
                    raise PluginError(
                        f"plugins {owners[root]!r} and {plugin!r} both word failures below {path}; leave one of them "
                        "out of --enable-routes"
                    )
                owners[root], self._encoders[root] = plugin, encode

    def response(self, failure: Failure, scope: Scope) -> Response:
        """The answer to a request; the longest of the paths that it is below decides."""
        path = str(scope.get("path", ""))
        while path and path not in self._encoders:
            path = path.rpartition("/")[0]
        encode = self._encoders.get(path, plain_failure)
        return encode(failure, str(scope.get("state", {}).get("request_id", "")))


def plain_failure(failure: Failure, request_id: str = "") -> Response:
    """A failure as an object of message, field at fault and code."""
    error = {"message": capped(failure.message), "param": failure.param, "code": failure.code}
    body = msgspec.json.encode({"error": error})
    return Response(body, failure.status, dict(failure.headers), media_type="application/json")


def capped(text: str) -> str:
    """`text`, cut where it gets longer than any reader wants; always encodable."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + " … (cut)"


def failure_of(error: BaseException) -> Failure:
    """The failure that stands for `error`; what was not foreseen is a 500 that tells nothing of the inside."""
    if isinstance(error, RequestError):
        return _request_failure(error)
    if isinstance(error, WorkerDied):
        return unavailable("the model worker stopped and is being restarted; try again")
    if isinstance(error, ValidationError | RequestValidationError):
        return validation_failure(error.errors())
    if isinstance(error, HTTPException):
        return Failure(status=error.status_code, message=str(error.detail), headers=error.headers or {})
    return Failure(status=500, message="the server failed at this request; its log says why", code="internal_error")


def unavailable(message: str) -> Failure:
    """503, to be tried again soon."""
    headers = {"Retry-After": str(RETRY_AFTER)}
    return Failure(status=503, message=message, code="service_unavailable", headers=headers)


def validation_failure(errors: Sequence[Any]) -> Failure:
    """400 for the first field at fault, with everything that was expected of it."""
    if not errors:
        return Failure(status=400, message="the request is not valid")
    param = _param(errors[0]["loc"])
    messages = dict.fromkeys(str(e["msg"]) for e in errors[:50] if _param(e["loc"]) == param)
    message = "; or ".join(messages).replace("Value error, ", "")
    return Failure(status=400, message=f"{capped(param)}: {message}" if param else message, param=param or None)


def log_unforeseen(error: BaseException, what: str) -> None:
    """Writes the traceback of what a client gets only "500" about."""
    if failure_of(error).status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s failed", what, exc_info=error)


def unrouted(request: Request, error: Exception) -> Failure:
    """Paths and methods that are not served, by name; other HTTP errors as they are."""
    failure = failure_of(error)
    where = capped(f"{request.method} {request.url.path}")
    if failure.status == HTTPStatus.NOT_FOUND and failure.message == HTTPStatus.NOT_FOUND.phrase:
        failure = Failure(status=404, message=f"there is no {where} on this server", code="unknown_url")
    elif failure.status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{where}: this path does not take that method"
        failure = Failure(status=405, message=message, code="method_not_supported", headers=failure.headers)
    return failure


def _request_failure(error: RequestError) -> Failure:
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFullError) else {}
    return Failure(status=error.status, message=error.message, param=error.param, code=error.code, headers=headers)


def _param(location: Sequence[int | str]) -> str:
    """("messages", 0, "content", "list[…]", 1) as a client writes it: messages[0].content[1]."""
    path = ""
    for step in location[:8]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "body" and not _UNION_TAG.match(step):
            path += f".{step}" if path else step
    return path[:200]
