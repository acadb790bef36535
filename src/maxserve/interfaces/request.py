"""Requests to an engine and what comes back, as data."""

from __future__ import annotations

from maxserve.core.interfaces.request import *  # noqa: F403
