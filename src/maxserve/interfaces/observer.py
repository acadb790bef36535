"""Observers: sinks of statistics."""

from __future__ import annotations

from maxserve.core.interfaces.observer import *  # noqa: F403
