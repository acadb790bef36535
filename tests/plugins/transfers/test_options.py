"""What goes together with roles, and where servers are asked."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.interfaces.errors import RequestError, SettingsError
from maxserve.plugins.transfers.addresses import Source, host_of, is_endpoint, source_of, wants_prefill_only
from maxserve.plugins.transfers.options import BOTH, DECODE, PREFILL, TransferSettings
from maxserve.testing.sections import built_in_sections

GIVEN = {"do_remote_prefill": True, "remote_host": "10.0.0.7", "remote_port": 5600, "remote_request_id": "a"}


def read(**typed: Any) -> Any:
    return resolve(typed, environ={}, sections=tuple(built_in_sections()))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"pipeline_role": "PrefillOnly", "devices": "cpu:0,1"}, "each process has a part"),
        ({"pipeline_role": "DecodeOnly", "devices": "cpu:0,1"}, "each process has a part"),
        ({"pipeline_role": "PrefillOnly", "devices": "cpu:0,1", "data_parallel_degree": 2}, "listen at one address"),
        ({"transfers.bind": "tcp://*:1", "devices": "cpu:0,1", "data_parallel_degree": 2}, "listen at one address"),
        ({"transfers.bind": "10.0.0.7:5555"}, "expected tcp://HOST:PORT"),
        ({"transfers.advertise": "10.0.0.7"}, "expected HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused(typed: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read(**{name.replace(".", "__"): value for name, value in typed.items()})


def test_replicas_may_answer() -> None:
    read(pipeline_role="DecodeOnly", devices="cpu:0,1", data_parallel_degree=2)


def test_a_server_that_cannot_be_asked_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(headless=True)
    assert "take --pipeline-role prefill_only" in caplog.text


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://127.0.0.1:5555", False),
        ("tcp://[::1]:5555", False),
        ("tcp://localhost:5555", False),
        ("ipc:///tmp/transfers", False),
        ("tcp://*:5555", True),
        ("tcp://0.0.0.0:5555", True),
        ("tcp://[::]:5555", True),
        ("tcp://10.0.0.7:5555", True),
        ("tcp://gpu-node:5555", True),
    ],
)
def test_an_open_socket_is_warned_of(address: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(transfers__bind=address)
    assert ("nothing there is encrypted" in caplog.text) == warned


def test_who_listens_where() -> None:
    plain, bound = TransferSettings(), TransferSettings(bind="tcp://10.0.0.7:5600")
    assert [plain.wanted(role) for role in (BOTH, PREFILL, DECODE)] == [False, True, True]
    assert [plain.address(role) for role in (BOTH, PREFILL, DECODE)] == [None, "tcp://127.0.0.1:5555", None]
    assert bound.wanted(BOTH)
    assert bound.advertised("tcp://10.0.0.7:5600") == "10.0.0.7:5600"
    assert bound.advertised("tcp://0.0.0.0:5600").endswith(":5600")
    assert not bound.advertised("tcp://0.0.0.0:5600").startswith("0.0.0.0")
    assert TransferSettings(advertise="pod:1").advertised("tcp://0.0.0.0:5600") == "pod:1"


@pytest.mark.parametrize("address", ["tcp://h:1", "tcp://[::1]:5555", "ipc:///tmp/x", "tcp://a-b.c_d:65535"])
def test_endpoints(address: str) -> None:
    assert is_endpoint(address)
    assert source_of({"target_endpoint": address}) == Source(addresses=(address,))


@pytest.mark.parametrize(
    "address", ["h:1", "tcp://h", "tcp://h:0", "tcp://h:65536", "tcp://:1", "udp://h:1", "tcp://h:1 "]
)
def test_no_endpoints(address: str) -> None:
    assert not is_endpoint(address)


def test_hosts() -> None:
    assert [host_of(each) for each in ("tcp://h:1", "tcp://[::1]:5", "ipc:///x")] == ["h", "[::1]", "127.0.0.1"]


def test_what_requests_say() -> None:
    assert source_of({}) is None
    assert source_of({"kv_transfer_params": {"do_remote_prefill": False, "remote_host": None}}) is None
    assert source_of({"kv_transfer_params": GIVEN}) == Source(addresses=("tcp://10.0.0.7:5600",), id="a")
    assert source_of({"target_endpoint": "tcp://a:1, tcp://b:2"}) == Source(addresses=("tcp://a:1", "tcp://b:2"))
    assert wants_prefill_only({"kv_transfer_params": {"do_remote_decode": True}})
    for wrong in ({"kv_transfer_params": {**GIVEN, "remote_port": None}}, {"target_endpoint": "tcp://a:1,b"}):
        with pytest.raises(RequestError):
            source_of(wrong)
