"""The dialects of failures that no route hears of: a missing key, a large body, an unknown path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from maxserve.core.http.errors import Failure, capped
from maxserve.core.interfaces.errors import PluginError

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
