from __future__ import annotations

import socket
from contextlib import closing

import pytest

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.runtime import ports


def test_port_zero_takes_a_free_one_and_clients_reach_it() -> None:
    with closing(ports.listen("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert ports.url(listening) == f"http://127.0.0.1:{port}"
        assert ports.is_local(listening)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_busy_port_is_named_with_a_way_out() -> None:
    with closing(ports.listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port} is in use .* --port 0"):
            ports.listen("127.0.0.1", port)


def test_port_of_a_closed_server_can_be_taken_again_at_once() -> None:
    with closing(ports.listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        first.setblocking(True)
        accepted, _ = first.accept()
        accepted.close()  # the server's side closes first: its address lingers in TIME_WAIT
        client.close()
    ports.listen("127.0.0.1", port).close()


def test_localhost_prefers_ipv4() -> None:
    with closing(ports.listen("localhost", 0)) as listening:
        assert listening.family == socket.AF_INET


def test_ipv6_url_has_brackets() -> None:
    try:
        listening = ports.listen("::1", 0)
    except SettingsError:
        pytest.skip("this machine has no IPv6")
    with closing(listening):
        assert ports.url(listening).startswith("http://[::1]:")
        assert ports.is_local(listening)


def test_any_address_is_not_local() -> None:
    with closing(ports.listen("0.0.0.0", 0)) as listening:
        assert not ports.is_local(listening)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_hosts_that_are_not_ours_are_named(host: str) -> None:
    with pytest.raises(SettingsError, match="--host"):
        ports.listen(host, 0)
