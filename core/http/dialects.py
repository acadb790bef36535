"""In whose words is a failure told that no route hears of: a missing key, a large body, a path that nobody serves?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from starlette.responses import Response
from starlette.types import Scope

from maxserve.core.http.errors import Failure
from maxserve.core.interfaces.errors import PluginError

EncodesFailure: TypeAlias = Callable[[Failure, str], Response]  # of a failure and the request's id


class FailureDialects:
    """What answers failures below some paths, by plugin; everywhere else they are OpenAI's error objects.

    PluginError when two plugins want the same path.
    """

    def __init__(self, given: Iterable[tuple[str, Mapping[str, EncodesFailure]]] = ()) -> None:
        self._tells: dict[str, EncodesFailure] = {}
        owners: dict[str, str] = {}
        for plugin, tells in given:
            for path, tell in tells.items():
                root = path.rstrip("/")
                if root in owners:
                    raise PluginError(
                        f"plugins {owners[root]!r} and {plugin!r} both word failures below {path}; leave one of them "
                        "out of --enable-routes"
                    )
                owners[root], self._tells[root] = plugin, tell

    def response(self, failure: Failure, scope: Scope) -> Response:
        """The answer to a request; the longest of the paths that it is below decides."""
        path = str(scope.get("path", ""))
        while path:
            if path in self._tells:
                return self._tells[path](failure, str(scope.get("state", {}).get("request_id", "")))
            path = path.rpartition("/")[0]
        return failure.response()
