"""The transports that come with maxserve."""

from __future__ import annotations

import sys

import pytest

from maxserve.interfaces.errors import SettingsError
from maxserve.interfaces.transport import TransportContext
from maxserve.plugins.transfers.nixl import NixlTransport
from maxserve.testing import TransportChecks


class TestTcp(TransportChecks):
    transport = "tcp"


def test_nixl_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nixl._api", None)
    with pytest.raises(SettingsError, match="pip install --no-deps nixl-cu13"):
        NixlTransport(TransportContext(host="127.0.0.1", wake=lambda: None))
