"""Parsers of tool calls and of reasoning."""

from __future__ import annotations

from maxserve.core.interfaces.parsers import *  # noqa: F403
