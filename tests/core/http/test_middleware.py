"""The order of middleware, and the applications that it wraps."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from maxserve.core.hookspecs import hookimpl
from maxserve.core.http.failures import Failure, FailureDialects
from maxserve.core.http.middleware import MiddlewareStack, in_order
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.middleware import Middleware, MiddlewareContext
from maxserve.core.registry.entries import Entry

CONTEXT = MiddlewareContext(host="127.0.0.1", response=FailureDialects().response)


def names(*declared: Middleware, own: tuple[str, ...] = ()) -> str:
    entries = [
        Entry(kind="middleware", component=each, plugin="p", origin="built-in" if each.name in own else "file")
        for each in declared
    ]
    return "".join(entry.name for entry in in_order(entries))


def named(name: str, **order: Any) -> Middleware:
    return Middleware(name=name, build=lambda context: lambda app: app, **order)


def test_where_nothing_is_said_the_servers_own_comes_first_and_then_the_name_decides() -> None:
    assert names(named("b"), named("a"), named("z"), own=("z",)) == "zab"


def test_names_that_come_earlier_and_later() -> None:
    assert names(named("a", after=("c",)), named("b"), named("c")) == "bca"
    assert names(named("a"), named("b"), named("c", before=("a",))) == "bca"
    assert names(named("a", after=("nothing",), before=("none",)), named("b")) == "ab"


def test_the_outermost_come_first() -> None:
    assert names(named("a"), named("b", outermost=True), named("c", outermost=True, before=("b",))) == "cba"


@pytest.mark.parametrize(
    "declared",
    [
        (named("a", after=("b",)), named("b", after=("a",))),
        (named("a", before=("b",)), named("b", before=("a",))),
        (named("a", before=("b",)), named("b", outermost=True)),
        (named("a", after=("a",)),),
    ],
)
def test_contradictions_name_who_is_part_of_them(declared: tuple[Middleware, ...]) -> None:
    with pytest.raises(PluginError, match=r"a before|before a"):
        names(*declared)


class Noting:
    """Notes who was asked."""

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard = name, heard

    def __call__(self, app: Any) -> Any:
        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            self.heard.append(self.name)
            await app(scope, receive, send)

        return noting

    def refusal_headers(self, headers: Headers) -> dict[str, str]:
        return {f"x-{self.name}": headers.get("origin", "none")}


async def _end(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.mark.anyio
async def test_the_outer_ones_wrap_in_their_order() -> None:
    heard: list[str] = []
    stack = MiddlewareStack(outer=[Noting("first", heard), Noting("second", heard)])
    await stack.around(_end)({}, None, None)  # type: ignore[arg-type]
    assert heard == ["first", "second"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_answers_of_no_application_have_the_headers_that_middleware_gives() -> None:
    stack = MiddlewareStack([Noting("a", []), lambda app: app], [Noting("b", [])])
    answer = stack.refusal(Failure(status=408, message="slow"), Headers({"origin": "here"}))
    assert (answer.status_code, answer.headers["x-a"], answer.headers["x-b"]) == (408, "here", "here")


def fails(app: Any) -> Any:
    raise ValueError("no key server")


@pytest.mark.parametrize("outermost", [False, True])
@pytest.mark.parametrize(
    ("built", "message"),
    [
        (7, "returned a int, no function"),
        (fails, "it cannot stand before an application: ValueError: no key server"),
        (lambda app: None, "it made a NoneType of an application"),
    ],
)
def test_what_cannot_wrap_is_named(plugin_host: Any, built: Any, message: str, outermost: bool) -> None:
    class Plugin:
        @staticmethod
        @hookimpl
        def maxserve_middleware() -> list[Middleware]:
            return [Middleware(name="acme", build=lambda context: built, outermost=outermost)]

    with pytest.raises(PluginError, match=rf"'acme'.*{message}"):
        MiddlewareStack.build(plugin_host(Plugin()), CONTEXT, FailureDialects())
