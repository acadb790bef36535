"""HTTP servers: what speaks HTTP on the port."""

from __future__ import annotations

from maxserve.core.interfaces.http_server import *  # noqa: F403
