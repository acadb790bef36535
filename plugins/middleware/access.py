"""Who may use the server: clients with an API key (`--api-key`), or else no pages of foreign sites.

Without an API key, whatever reaches the port is answered, and a page of any site that a user of this machine looks at
can reach it. Pages of listed sites may use the server (CORS), those of others may not make it work. Two fields of a
request tell pages from other clients, because a page cannot choose them: `Origin`, the site that the page is of, and
`Host`, the name by which the server was asked for. A page of evil.example whose name was made to mean 127.0.0.1 after
it was loaded (DNS rebinding) is of the same site as the server, for the browser, and may read what it answers: only the
`Host` gives it away. So only names that cannot be registered are taken.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from maxserve.http import Failure, key_in
from maxserve.interfaces.middleware import MiddlewareContext, WrapsApp
from maxserve.plugins.middleware.options import AccessOptions

# Top-level names that are not in the public DNS: reserved ones, and those of container networks and of homes.
PRIVATE_NAMES = frozenset(
    {"localhost", "local", "internal", "svc", "lan", "home", "corp", "intranet", "private", "localdomain"}
)
EXPOSED = ("X-Request-ID", "Retry-After")
_USUAL_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.IGNORECASE)
_LONGEST_LITERAL = 45  # characters of an address: of one of IPv6 that ends as one of IPv4
_REALM = {"WWW-Authenticate": "Bearer"}
_READING = ("GET", "HEAD", "OPTIONS")


class AllowOrigins:
    """Gives the answers that browsers need for pages of some sites (`--allowed-origins`)."""

    def __init__(self, context: MiddlewareContext) -> None:
        self._origins = context.config(AccessOptions).allowed_origins

    def __call__(self, app: ASGIApp) -> ASGIApp:
        if not self._origins:
            return app
        return CORSMiddleware(app, self._origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED)

    def refusal_headers(self, headers: Headers) -> Mapping[str, str]:
        """The fields by which a page may read an answer that no application gave."""
        origin, origins = headers.get("origin"), self._origins
        if not origin or not {"*", origin} & set(origins):
            return {}
        allowed = "*" if "*" in origins else origin
        exposed = ", ".join(EXPOSED)
        return {"access-control-allow-origin": allowed, "access-control-expose-headers": exposed, "vary": "Origin"}


def access_check(context: MiddlewareContext) -> WrapsApp:
    """The check that the options ask for: of keys, or of pages."""
    check = KeyCheck if context.config(AccessOptions).api_key else OriginCheck
    return partial(check, context=context)


class _AccessCheck:
    """ASGI middleware that hands a request on, or answers it with the failure that `_refusal` says.

    `reason` is what a web socket is closed with instead of the failure's message.
    """

    reason = ""

    def __init__(self, app: ASGIApp, context: MiddlewareContext) -> None:
        self._app, self._response = app, context.response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        failure = None
        if scope["type"] in ("http", "websocket"):
            failure = self._refusal(Headers(scope=scope), scope)
        if failure is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": self.reason or failure.message})
        else:
            await self._response(failure, scope)(scope, receive, send)

    def _refusal(self, headers: Headers, scope: Scope) -> Failure | None:
        raise NotImplementedError


class KeyCheck(_AccessCheck):
    """Refuses requests without a key of `--api-key`.

    All keys are compared, each in constant time, so that an answer's delay tells nothing of them. Probes of health
    never come here: the gate answers them.
    """

    reason = "an API key is needed"

    def __init__(self, app: ASGIApp, context: MiddlewareContext) -> None:
        super().__init__(app, context)
        self._keys = [key.encode() for key in context.config(AccessOptions).api_key]

    def _refusal(self, headers: Headers, scope: Scope) -> Failure | None:
        key = key_in(headers)
        if self._knows(key):
            return None
        reason = "the API key is not one this server knows" if key else "an API key is needed"
        message = f"{reason}; send one that was given to --api-key as `Authorization: Bearer KEY`"
        return Failure(status=401, message=message, code="invalid_api_key", headers=_REALM)

    def _knows(self, key: str) -> bool:
        given = key.encode("utf-8", "surrogatepass")
        return bool(sum([hmac.compare_digest(given, known) for known in self._keys]))


class OriginCheck(_AccessCheck):
    """Refuses requests of foreign pages with 403, and those without a usable Host with 400.

    A page is foreign unless its site is in `--allowed-origins`, is what the server was asked for as, is this machine
    or one of `--allowed-hosts`; sites are of http or https: extensions and applications have other schemes, and pass.
    Of a server that only this machine reaches, every Host must be a name that cannot be registered; of others, that of
    requests that may come from a browser.
    """

    def __init__(self, app: ASGIApp, context: MiddlewareContext) -> None:
        super().__init__(app, context)
        options = context.config(AccessOptions)
        self._origins = frozenset(options.allowed_origins)
        self._hosts = tuple(host.lower() for host in (*options.allowed_hosts, context.host))
        self._local = _is_loopback(context.host)

    def _refusal(self, headers: Headers, scope: Scope) -> Failure | None:
        hosts = headers.getlist("host")
        host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if host is None and (hosts or scope.get("http_version", "1.1") != "1.0"):
            return Failure(
                status=400, message="a request needs one Host field with a name or an address", code="bad_host"
            )
        name = "" if host is None else _plain(host[1])
        if name and not self._is_own(name) and (self._local or _may_be_a_page(headers)):
            message = f"this server is not to be asked for as {name}; --allowed-hosts {name} lets it be"
            return Failure(status=403, message=message, code="foreign_host")
        origin = headers.get("origin", "")
        port = "" if host is None else host[2] or ""
        if not origin and headers.get("sec-fetch-site") == "cross-site" and scope.get("method") not in _READING:
            origin = "null"
        if origin and not self._may_ask(origin, name, port):
            message = f"pages of {origin[:200]} may not use this server; --allowed-origins {origin[:200]} lets them"
            return Failure(status=403, message=message, code="foreign_origin")
        return None

    def _is_own(self, name: str) -> bool:
        """Whether no stranger could make the name mean this machine."""
        private = "." not in name or name.rpartition(".")[2] in PRIVATE_NAMES or name.endswith(".home.arpa")
        return private or _is_literal(name) or self._is_listed(name)

    def _is_listed(self, name: str) -> bool:
        return any(host in ("*", name) or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts)

    def _may_ask(self, origin: str, host: str, port: str) -> bool:
        if {"*", origin} & self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name, own_port = _plain(parts.hostname or ""), parts.port
        except ValueError:
            return False
        usual = _USUAL_PORTS.get(parts.scheme)
        if usual is None:
            return bool(parts.scheme)
        same = name == host and (str(own_port or "") or usual) == (port or usual)
        return same or _is_loopback(name) or self._is_listed(name)


def _may_be_a_page(headers: Headers) -> bool:
    """Whether a browser may have sent this: it always sends some of these fields."""
    if headers.get("origin") or headers.get("sec-fetch-site") or headers.get("referer") or headers.get("cookie"):
        return True
    return headers.get("user-agent", "").startswith("Mozilla/") or headers.get("accept-language", "*") != "*"


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")


def _is_literal(name: str) -> bool:
    return len(name) <= _LONGEST_LITERAL and _parses(name)


@lru_cache(maxsize=256)  # clients ask for the same few hosts again and again
def _parses(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_literal(name) and ipaddress.ip_address(name).is_loopback
