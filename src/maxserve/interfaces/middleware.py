"""Middleware: what stands between the HTTP server and the routes."""

from __future__ import annotations

from maxserve.core.interfaces.middleware import *  # noqa: F403
