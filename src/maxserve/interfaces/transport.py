"""Transports: how keys and values of prompts come from one server to another."""

from __future__ import annotations

from maxserve.core.interfaces.transport import *  # noqa: F403
