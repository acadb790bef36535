"""Where servers that prefill are, and what requests say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from maxserve.interfaces.errors import RequestError

_ENDPOINT = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})|ipc://\S+")
FIELD = "target_endpoint"
PARAMS = "kv_transfer_params"
MOST_ENDPOINTS = 16


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt is prefilled: one of these addresses; `id` is that of a prompt which was prefilled over HTTP."""

    addresses: tuple[str, ...]
    id: str = ""


def is_endpoint(address: str) -> bool:
    """Whether it is tcp://host:port or ipc://path."""
    found = _ENDPOINT.fullmatch(address)
    return found is not None and (found[2] is None or 0 < int(found[2]) < 65536)


def host_of(address: str) -> str:
    """The host of an endpoint, as it stands in one: an address of IPv6 with its brackets; this machine's for ipc."""
    parts = urlsplit(address)
    return "127.0.0.1" if parts.scheme == "ipc" else parts.netloc.rpartition(":")[0]


def wants_prefill_only(transfer: Mapping[str, Any]) -> bool:
    """Whether the keys and values that a request computes are for another server."""
    return bool(_params(transfer).get("do_remote_decode"))


def source_of(transfer: Mapping[str, Any]) -> Source | None:
    """Where the request says that its prompt is prefilled; None where it says nothing. RequestError otherwise."""
    params = _params(transfer)
    if params.get("do_remote_prefill"):
        return _remote(params)
    target = transfer.get(FIELD)
    if not target:
        return None
    addresses = tuple(each.strip() for each in str(target).split(",")[: MOST_ENDPOINTS + 1])
    if len(addresses) > MOST_ENDPOINTS or not all(map(is_endpoint, addresses)):
        raise RequestError(
            f"{FIELD}: expected tcp://HOST:PORT or ipc://PATH, or several with commas between them, got "
            f"{str(target)[:200]!r}",
            param=FIELD,
            code="invalid_value",
        )
    return Source(addresses=addresses)


def _params(transfer: Mapping[str, Any]) -> Mapping[str, Any]:
    params = transfer.get(PARAMS) or {}
    if not isinstance(params, Mapping):
        raise RequestError(f"{PARAMS} must be an object", param=PARAMS, code="invalid_value")
    return params


def _remote(params: Mapping[str, Any]) -> Source:
    host, port, id = (params.get(f"remote_{name}") for name in ("host", "port", "request_id"))
    address = f"tcp://{host}:{port}"
    if not isinstance(host, str) or not isinstance(id, str) or not id or not is_endpoint(address):
        raise RequestError(
            f"{PARAMS}: expected remote_host, remote_port and remote_request_id as a server that prefilled gave them",
            param=PARAMS,
            code="invalid_value",
        )
    return Source(addresses=(address,), id=id)
