"""The mounting of plugins' routers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, Mount, NoMatchFound, Route, WebSocketRoute, compile_path
from starlette.types import Receive, Scope, Send

from maxserve.core.http.health_gate import PROBES
from maxserve.core.interfaces.errors import PluginError, cause

ANY_METHOD = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SCHEMA = "/openapi.json"

_FOUND = "maxserve.route"  # the key in a request's scope of the router that DirectRoutes found
_PARAMETER = re.compile(r"\{[^}:]*(:[^}]*)?\}")
_ONE, _MANY = "{}", "{path}"  # what a parameter becomes: one segment, or one and all that follow


class BodySchema(dict[str, Any]):
    """All of a route's description in the words of OpenAPI, as its `openapi_extra`: FastAPI has nothing to add."""


class LaterSchema(BodySchema):
    """One that `describe` gives when /openapi.json is first asked for: what pydantic says of a body takes its time."""

    def __init__(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._describe = describe

    def fill(self) -> None:
        """Has what `describe` gives from now on."""
        self.update(self._describe())


class RouteMount(NamedTuple):
    """A router, the prefix its plugin asked for ("" for the plugin's own corner, "/" for the root), and the plugin."""

    prefix: str
    router: APIRouter
    provider: str

    @property
    def root(self) -> str:
        return f"/plugins/{self.provider}" if not self.prefix else self.prefix.rstrip("/")


class _Address(msgspec.Struct, frozen=True, kw_only=True):
    methods: frozenset[str]
    path: str
    provider: str

    def overlaps(self, other: _Address) -> bool:
        return bool(self.methods & other.methods) and _overlap(_segments(self.path), _segments(other.path))


class RouteTemplates:
    """The templates of the paths that are served, in the order in which they are tried."""

    def __init__(self, addresses: Iterable[_Address]) -> None:
        http = [each for each in addresses if "WEBSOCKET" not in each.methods or len(each.methods) > 1]
        self._known = [(compile_path(each.path)[0], each.methods, each.path) for each in http]
        plain = [(method, each.path) for each in http if not _PARAMETER.search(each.path) for method in each.methods]
        self._plain = {(method, path): self._first(method, path) for method, path in plain}

    def of(self, method: str, path: str) -> str:
        """The template of the route that answers, or of one for another method; "" where no route has the path."""
        return self._plain.get((method, path)) or self._first(method, path)

    def _first(self, method: str, path: str) -> str:
        found = ""
        for regex, methods, template in self._known:
            if regex.match(path):
                if method in methods:
                    return template
                found = found or template
        return found


class DirectRoutes(BaseRoute):
    """Leads a path without parameters to the router that has it, before those of all plugins are tried in turn.

    No two plugins may serve the same request, so it makes no difference to the answer whose routes are tried first.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[BaseRoute]] = {}

    def add(self, path: str, routes: Iterable[BaseRoute]) -> None:
        self._known.setdefault(path, []).extend(routes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        for route in self._known.get(scope["path"], ()):
            match, child_scope = route.matches(scope)
            if match == Match.FULL:
                return match, {**child_scope, _FOUND: route}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope.pop(_FOUND).handle(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)


def mount_routes(app: FastAPI, mounts: Iterable[RouteMount], probes: Collection[str] = tuple(PROBES)) -> RouteTemplates:
    """Includes every router in `app`; PluginError when two providers would answer the same request.

    The server itself answers `probes` and the schema. Returns the templates of all paths.

    Routers are compared before they are included: afterwards FastAPI no longer shows their paths.
    """
    own = sorted({*probes, SCHEMA})
    taken = [_Address(methods=frozenset({"GET"}), path=path, provider="the server itself") for path in own]
    direct = DirectRoutes()
    app.router.routes.insert(0, direct)
    for mount in mounts:
        addresses = list(_addresses(mount.router.routes, mount.root, mount.provider))
        for address in addresses:
            _validate_overlap(address, taken)
        taken += addresses
        _check_schema(mount)
        before = len(app.router.routes)
        app.include_router(mount.router, prefix=mount.root)
        for path in {address.path for address in addresses if not _PARAMETER.search(address.path)}:
            direct.add(path, app.router.routes[before:])
    return RouteTemplates(taken)


def later_schemas(routes: Iterable[BaseRoute]) -> list[LaterSchema]:
    """What is not described yet of some routes."""
    extras = [route.openapi_extra for route in routes if isinstance(route, APIRoute)]
    return [extra for extra in extras if isinstance(extra, LaterSchema)]


def _check_schema(mount: RouteMount) -> None:
    """PluginError where /openapi.json could not describe the routes: one of them would take the page from all others.

    What a BodySchema describes is not tried: that takes a tenth of a second of every start.
    """
    routes = [each for each in mount.router.routes if isinstance(each, APIRoute) and not _is_described(each)]
    if not routes:
        return
    try:
        get_openapi(title=mount.provider, version="", routes=routes)
    except Exception as error:
        raise PluginError(
            f"plugin {mount.provider!r}: the schema of its routes cannot be built: {cause(error)}; give them bodies "
            "and results that pydantic can describe, or include_in_schema=False"
        ) from error


def _is_described(route: APIRoute) -> bool:
    """Whether FastAPI has nothing to add to the BodySchema of a route."""
    needs = route.dependant
    found = (needs.path_params, needs.query_params, needs.header_params, needs.cookie_params, needs.body_params)
    plain = not any(found) and not needs.dependencies and not route.responses and not route.callbacks
    return plain and route.response_model is None and isinstance(route.openapi_extra, BodySchema | None)


def _validate_overlap(address: _Address, taken: Sequence[_Address]) -> None:
    for other in taken:
        if other.provider != address.provider and address.overlaps(other):
            raise PluginError(
                f"plugin {address.provider!r} wants to serve {_shown(address)}, which overlaps {_shown(other)} of "
                f"{other.provider!r}; leave one of them out of --enable-routes, or give its Routes another prefix"
            )


def _shown(address: _Address) -> str:
    return f"{'|'.join(sorted(address.methods))} {address.path}"


def _addresses(routes: Iterable[BaseRoute], root: str, provider: str) -> Iterator[_Address]:
    for route in routes:
        if isinstance(route, Route):
            methods, path = frozenset(route.methods or ANY_METHOD), route.path
        elif isinstance(route, WebSocketRoute):
            methods, path = frozenset({"WEBSOCKET"}), route.path
        elif isinstance(route, Mount):
            methods, path = ANY_METHOD | {"WEBSOCKET"}, route.path + "/{path:path}"
        else:
            # A router inside a router hides its paths in some FastAPI releases, so it cannot be checked.
            raise PluginError(f"plugin {provider!r}: put all routes on one APIRouter, without including others in it")
        yield _Address(methods=methods, path=root + path, provider=provider)


def _segments(path: str) -> tuple[str, ...]:
    return tuple(_segment(part) for part in path.split("/"))


def _segment(part: str) -> str:
    found = _PARAMETER.search(part)
    if found is None:
        return part
    return _MANY if found[1] == ":path" else _ONE


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether some path matches both."""
    if not one or not other:
        return not one and not other
    rest = _overlap(one[1:], other[1:])
    if one[0] == _MANY and _overlap(one, other[1:]):
        return True
    if other[0] == _MANY and _overlap(one[1:], other):
        return True
    wild = {_ONE, _MANY} & {one[0], other[0]}
    return rest and (bool(wild) or one[0] == other[0])
