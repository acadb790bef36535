"""Addresses between the processes of a server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import SettingsError
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("inproc://x", "cannot join two processes"),
        ("http://x", "expected ipc"),
        ("ipc://", "expected ipc"),
        ("nonsense", "expected ipc"),
        ("tcp://127.0.0.1", "expected tcp://HOST:PORT"),
        ("tcp://*:5000", "a host to connect to"),
        ("tcp://127.0.0.1:0", "1 to 65534"),
        ("tcp://127.0.0.1:65535", "1 to 65534"),
        ("ipc:///" + "x" * 200, "choose a shorter folder"),
    ],
)
def test_bases_that_cannot_work_are_refused(base: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught, endpoints(base):
        pass
    assert base in str(caught.value)


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("10.0.0.7", True), ("gpu7", True)],
)
def test_addresses_that_others_can_reach_are_warned_of(
    host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with endpoints(f"tcp://{host}:5000"):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert (f"who reaches {host.strip('[]')}" in caplog.text) is warned


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_base_belongs_to_one_server(tmp_path: Path, scheme: str) -> None:
    """At an ipc:// path the second would take the first one's messages; at tcp:// it would fail after loading."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = f"ipc://{tmp_path}/m" if scheme == "ipc" else f"tcp://127.0.0.1:{port}"
    with endpoints(base) as pair:
        listening = socket.create_server(("127.0.0.1", port)) if scheme == "tcp" else None
        with pytest.raises(SettingsError, match="another server uses it"), endpoints(base):
            pass
        if listening is not None:
            listening.close()
    with endpoints(base) as again:
        assert again == pair
    assert not list(tmp_path.iterdir())


def test_a_base_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"m-lock cannot be written: No such file"),
        endpoints(f"ipc://{tmp_path}/none/m"),
    ):
        pass


@pytest.mark.parametrize("base", ["tcp://127.0.0.1:5555", "tcp://[::1]:1", "ipc:///tmp/x", "ipc://x"])
def test_endpoints_that_zmq_knows(base: str) -> None:
    chosen = resolve({"zmq_endpoint_base": base}, environ={}, sections=SHARED).plugins.sections
    assert chosen["endpoints"] == {"zmq_endpoint_base": base}


NAMELESS = ["", "ipc", "ipc:/x", "ipc://", "tcp://", "tcp://:5", "udp://host:1"]
BAD_PORTS = ["tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://host:x"]


@pytest.mark.parametrize("base", [*NAMELESS, *BAD_PORTS, "ipc:///" + "x" * 107])
def test_endpoints_that_it_does_not(base: str) -> None:
    with pytest.raises(SettingsError, match="--zmq-endpoint-base"):
        resolve({"zmq_endpoint_base": base}, environ={}, sections=SHARED)


def test_an_endpoint_that_joins_no_processes() -> None:
    with pytest.raises(SettingsError, match="cannot join two processes; use ipc://PATH or tcp://HOST:PORT"):
        resolve({"zmq_endpoint_base": "inproc://name"}, environ={}, sections=SHARED)


def test_the_size_of_a_host_tier_that_is_not_there_is_said_to_mean_nothing(caplog: pytest.LogCaptureFixture) -> None:
    resolve({"host_kvcache_swap_space_gb": 2.0, "enable_kvcache_swapping_to_host": True}, environ={}, sections=SHARED)
    assert not caplog.records
    resolve({"host_kvcache_swap_space_gb": 2.0}, environ={}, sections=SHARED)
    assert "--host-kvcache-swap-space-gb 2 means nothing without --enable-kvcache-swapping-to-host" in caplog.text


@pytest.mark.parametrize("base", ["ipc://{}/x", "tcp://127.0.0.1:45650"])
def test_replicas_have_addresses_of_their_own(base: str, tmp_path: Path) -> None:
    base = base.format(tmp_path)
    with endpoints(base) as alone, endpoints(base, 1) as other, endpoints(base, 2) as third:
        assert len({address for pair in (alone, other, third) for address in (pair.requests, pair.outputs)}) == 6
    with endpoints(base, 0) as again:
        assert again == alone
    assert not list(tmp_path.iterdir())
